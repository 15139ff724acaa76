"""Stands in the way of scikit-learn, in processes that are to be as the service is installed.

Only tests need it. Where it is there, Keras imports it, and SciPy with it, at every start.
"""

raise ImportError("the service is installed without scikit-learn")
