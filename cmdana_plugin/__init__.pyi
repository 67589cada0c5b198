from .notebook import calibrate as calibrate
from .notebook import encode as encode
from .notebook import extract as extract
from .notebook import fit as fit
from .notebook import judge as judge
from .notebook import load_detector as load_detector
from .notebook import read as read
