"""Beyond the paper: transfer part × gradient part × starter × grid."""
