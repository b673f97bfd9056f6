from lib.models.aster.recognizer import Aster, aster_from_state_dict

__all__ = ['Aster', 'aster_from_state_dict']
