"""The figures of the treatment domain; plain arrays in, a matplotlib `Figure` out.

figure = agp_figure({"foreworld": bg, "bb_error": other})       # bg [P, minutes], mg/dL
save_png(figure, "agp.png")
"""

from foreworld.domains.treatment.figure_agp import RANGES, Profile, agp_figure, glucose_profile, range_shares
from foreworld.domains.treatment.figure_day import CLOSEST, INACTIVE, REFUSED, DayExample, DayForecast, day_figure
from foreworld.domains.treatment.figure_scores import (
    HorizonErrors,
    calibration_figure,
    patients_figure,
    time_in_range_by_patient,
)
from foreworld.domains.treatment.figure_style import png_bytes, save_png

__all__ = [
    "CLOSEST",
    "INACTIVE",
    "RANGES",
    "REFUSED",
    "DayExample",
    "DayForecast",
    "HorizonErrors",
    "Profile",
    "agp_figure",
    "calibration_figure",
    "day_figure",
    "glucose_profile",
    "patients_figure",
    "png_bytes",
    "range_shares",
    "save_png",
    "time_in_range_by_patient",
]
