"""Learned plans: times and weights of a multistep method, fitted by gradient to one network.

    python -m pndm.fit dataset=digits schedule=linear solver=ipndm steps=5 grid=quadratic

`student` is the method with free numbers, `teacher` the fine solution that it imitates, `loss`
their distance, `loop` the fitting.
"""
