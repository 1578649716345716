"""The safety requirements of the insulin task, beside those of the engine; see `evidence.safety`."""

from __future__ import annotations

from foreworld.evidence.safety import Requirement

CHECK = "tests/agent/test_check.py::"
COVERED = "tests/domains/treatment/test_covered_dose.py::"
TASK, PACK = "tests/domains/treatment/test_task.py::", "tests/domains/treatment/test_insulin_pack.py::"
FALLBACK, FILE = "tests/domains/treatment/test_controllers.py::", "tests/domains/treatment/test_plan_file.py::"
RULES = "domains.treatment.rules:insulin_rules"

REQUIREMENTS = (
    Requirement(
        id="FW-S-101",
        hazard="Insulin is planned that leads to hypoglycaemia (below 70 mg/dL).",
        severity=4,
        text="A plan shall keep predicted glucose at or above 70 mg/dL from 60 to 120 minutes ahead at a one-sided "
        "risk of 20 %.",
        enforced=("domains.treatment.task:guardrails", "planning.guardrail:StateGuardrail.margin"),
        tests=(
            PACK + "test_the_built_in_pack_is_what_the_code_says",
            "tests/planning/test_guardrail.py::test_the_margin_is_the_least_distance_over_the_steps_that_count",
            "tests/agent/test_calibrate.py::test_trajectory_bounds_hold_their_risk_on_fresh_visits",
        ),
        covers=("guardrail predicted_low",),
    ),
    Requirement(
        id="FW-S-102",
        hazard="Insulin is planned that leads to severe hypoglycaemia (below 54 mg/dL): coma, death.",
        severity=5,
        text="A plan shall keep predicted glucose at or above 54 mg/dL from 60 to 180 minutes ahead at a one-sided "
        "risk of 5 %.",
        enforced=("domains.treatment.task:guardrails", "planning.guardrail:StateGuardrail.margin"),
        tests=(
            PACK + "test_the_built_in_pack_is_what_the_code_says",
            "tests/planning/test_guardrail.py::test_the_margin_is_the_least_distance_over_the_steps_that_count",
            "tests/agent/test_calibrate.py::test_trajectory_bounds_hold_their_risk_on_fresh_visits",
        ),
        covers=("guardrail predicted_very_low",),
    ),
    Requirement(
        id="FW-S-103",
        hazard="The planner proposes a dose that the checker must refuse, and good plans are lost to it.",
        severity=4,
        text="The dose of a plan shall be at most what the checker's rules allow on measured data, worked out a second "
        "time.",
        enforced=("domains.treatment.task:DoseLimit.margin", "domains.treatment.dose_limit:dose_limit"),
        tests=(
            TASK + "test_no_dose_within_the_limit_is_refused_by_the_checker_and_no_dose_above_is_accepted",
            TASK + "test_the_space_and_the_guardrail_keep_the_first_dose_within_the_limit",
            TASK + "test_histories_of_other_limits_agree_with_the_checker_too",
        ),
        covers=("guardrail dose_limit",),
    ),
    Requirement(
        id="FW-S-118",
        hazard="The model foresees a meal that nobody has eaten or announced, doses for it, and it does not come.",
        severity=5,
        text="A planned dose shall be at most what covers the line through the last readings and 1.2 times the "
        "announced carbohydrate, less the insulin on board above basal, down to 70 mg/dL by the profile. Where there "
        "is no such line only the dose limit holds.",
        enforced=("domains.treatment.task:CoveredDose.margin", "domains.treatment.covered_dose:covered_dose"),
        tests=(
            COVERED + "test_the_bound_is_what_a_plain_account_of_it_says",
            COVERED + "test_a_forecast_meal_covers_nothing_and_an_announced_one_does",
            COVERED + "test_no_plan_asks_for_more_than_is_covered",
        ),
        covers=("guardrail covered_dose",),
    ),
    Requirement(
        id="FW-S-104",
        hazard="Something that is no dose is delivered: NaN, negative, text, or beyond the pump.",
        severity=5,
        text="A dose shall be one finite number of U from 0 to the channel's bound.",
        enforced=(RULES, "agent.check_rules:FiniteAction", "agent.check_rules:Bounds"),
        tests=(
            CHECK + "test_never_accepts_what_is_not_a_finite_dose_between_zero_and_the_channel_bound",
            CHECK + "test_unknown_missing_or_non_numeric_actions_are_refused",
        ),
        covers=("rule finite_insulin", "rule insulin_bounds"),
    ),
    Requirement(
        id="FW-S-105",
        hazard="Time stamps that are wrong hide insulin that was given.",
        severity=5,
        text="Without a present and increasing time stamps no insulin shall pass.",
        enforced=(RULES, "agent.check_rules:SoundHistory"),
        tests=(CHECK + "test_time_that_does_not_increase_lets_only_no_insulin_pass",),
        covers=("rule sound_history",),
    ),
    Requirement(
        id="FW-S-106",
        hazard="The profile has a typing or unit error, such as mmol/L for mg/dL or a carb ratio ten times too small.",
        severity=5,
        text="With a profile outside plausible ranges no insulin shall pass, and bounds that do not depend on the carb "
        "ratio shall hold beside those that do.",
        enforced=(RULES, "agent.check_rules:StaticRange"),
        tests=(
            CHECK + "test_implausible_or_missing_profile_lets_only_no_insulin_pass",
            CHECK + "test_wrong_carb_ratio_is_caught_by_body_weight",
        ),
        covers=(
            "rule profile_weight",
            "rule profile_basal",
            "rule profile_basal_per_weight",
            "rule profile_cr",
            "rule profile_cf",
            "rule profile_cf_per_cr",
        ),
    ),
    Requirement(
        id="FW-S-107",
        hazard="A single dose is far too large, or is given twice.",
        severity=5,
        text="A step's dose shall stay within the protocols' hard cap, its bolus within a bound by body weight, and "
        "two boluses at least 3 minutes apart (which steps of 5 minutes always are: it binds faster callers only).",
        enforced=(
            "domains.treatment.rules:StepDose",
            "domains.treatment.rules:BolusSize",
            "domains.treatment.rules:BolusInterval",
        ),
        tests=(
            CHECK + "test_each_bound_holds_on_both_sides_while_no_other_rule_binds",
            CHECK + "test_wrong_carb_ratio_is_caught_by_body_weight",
            CHECK + "test_second_bolus_within_three_minutes_is_refused",
            CHECK + "test_in_steps_of_five_minutes_the_bolus_interval_refuses_nothing",
        ),
        covers=("rule step_dose", "rule bolus_size", "rule bolus_interval"),
    ),
    Requirement(
        id="FW-S-108",
        hazard="Doses that are small one by one stack up.",
        severity=5,
        text="Insulin on board above basal, and insulin of 24 hours, shall stay within bounds by profile and body "
        "weight; withheld basal shall give no credit.",
        enforced=("domains.treatment.rules:MaxIOB", "domains.treatment.rules:DailyTotal"),
        tests=(
            CHECK + "test_insulin_on_board_counts_excess_and_gives_no_credit_for_withholding",
            CHECK + "test_insulin_on_board_curve_matches_the_reference_and_falls_from_one_to_zero",
            CHECK + "test_daily_total_is_limited_to_the_profile_basal_when_spent",
        ),
        covers=("rule max_iob", "rule daily_total"),
    ),
    Requirement(
        id="FW-S-109",
        hazard="A wrong or tripled carbohydrate entry, or none, leads to a bolus that no meal needs.",
        severity=5,
        text="Boluses of two hours shall be at most what announced carbohydrate and a correction justify, generously.",
        enforced=("domains.treatment.rules:JustifiedBolus",),
        tests=(
            CHECK + "test_bolus_without_announced_carbs_is_refused_beyond_correction_and_allowance",
            CHECK + "test_threefold_carb_entry_justifies_no_more_than_max_cob",
            CHECK + "test_standard_meal_bolus_passes",
        ),
        covers=("rule justified_bolus",),
    ),
    Requirement(
        id="FW-S-110",
        hazard="Insulin is delivered while glucose is low or heads for low.",
        severity=5,
        text="With glucose below the suspend threshold, measured or on the line through the last readings, no insulin "
        "shall pass.",
        enforced=("agent.check_rules:SuspendBelow",),
        tests=(
            CHECK + "test_low_glucose_suspends_even_the_profile_basal",
            CHECK + "test_predicted_low_suspends_before_the_reading_is_low",
            CHECK + "test_error_code_is_no_low_but_a_true_low_below_it_is",
            CHECK + "test_threshold_is_that_of_oref0",
        ),
        covers=("rule low_suspend", "rule predicted_low_suspend"),
    ),
    Requirement(
        id="FW-S-111",
        hazard="The sensor is silent, stuck, saturated or noisy, and its reading is dosed on.",
        severity=5,
        text="With a reading that is stale, flat, out of range or noisy nothing above the profile basal shall pass.",
        enforced=("agent.check_rules:StaleData", "agent.check_rules:RangeGate", "agent.check_rules:FlatSignal"),
        tests=(
            CHECK + "test_stale_cgm_counts_from_the_newest_reading",
            CHECK + "test_profile_basal_passes_without_a_valid_cgm_and_nothing_more",
            CHECK + "test_interval_stale_range_flat_and_suspend_on_another_channel",
            CHECK + "test_noise_flag_gates_when_the_channel_exists",
        ),
        covers=("rule cgm_stale", "rule cgm_range", "rule cgm_flat"),
    ),
    Requirement(
        id="FW-S-112",
        hazard="No action is left that may be done.",
        severity=4,
        text="No insulin for five minutes shall pass every rule in every state.",
        enforced=("domains.treatment.task:InsulinTask.last_resort", "agent.check:Rule.check"),
        tests=(
            CHECK + "test_no_insulin_passes_in_every_state",
            CHECK + "test_no_insulin_passes_with_an_empty_history_and_without_profile",
            TASK + "test_the_last_resort_and_suggestions_are_finite_in_every_state",
        ),
    ),
    Requirement(
        id="FW-S-113",
        hazard="The fallback, which acts when foreworld refuses, is itself unsafe.",
        severity=5,
        text="The fallback shall stop insulin when glucose is low, falling, or about to be taken low by insulin on "
        "board, distrust a stuck or silent sensor, and ask for nothing that the checker refuses.",
        enforced=("domains.treatment.fallback:Fallback.dose",),
        tests=(
            FALLBACK + "test_the_fallback_stops_when_low_falling_loaded_or_silent_after_a_low",
            FALLBACK + "test_the_fallback_trusts_no_stuck_sensor",
            FALLBACK + "test_no_trace_makes_the_fallback_ask_for_what_the_checker_refuses",
            FALLBACK + "test_the_fallback_is_safe_on_training_patients",
        ),
    ),
    Requirement(
        id="FW-S-114",
        hazard="A record in the wrong unit, with a gap, or too short to show insulin on board is planned on.",
        severity=5,
        text="An input file shall state units and be refused, with channel, place, value, bound and unit, where "
        "anything is wrong; nothing shall be converted or filled in silently.",
        enforced=("domains.treatment.plan_file:read_plan_file",),
        tests=(
            FILE + "test_a_wrong_unit_says_how_to_convert",
            FILE + "test_a_value_out_of_bounds_is_named_with_place_bound_and_unit",
            FILE + "test_time_must_go_forward_in_regular_steps_and_reach_back_far_enough",
            FILE + "test_junk_anywhere_is_read_or_named_and_never_crashes",
        ),
    ),
    Requirement(
        id="FW-S-115",
        hazard="The model foresees that more insulin raises glucose, and doses against a low.",
        severity=5,
        text="More insulin shall never raise the model's predicted glucose.",
        enforced=("model.dynamics", "domains.treatment.schema:SCHEMA"),
        tests=("tests/model/test_world_model.py::test_more_of_an_action_that_lowers_never_raises_the_prediction",),
    ),
    Requirement(
        id="FW-S-116",
        hazard="The checker has a gap that nobody thought of.",
        severity=5,
        text="The checker shall agree with a separate reference implementation under adversarial proposals "
        "(`benchmarks/checker_attack.py` makes more of them).",
        enforced=("agent.check:Checker.check", RULES),
        tests=(
            CHECK + "test_agrees_with_the_reference_on_5000_adversarial_proposals",
            CHECK + "test_adversary_reaches_every_rule",
        ),
    ),
    Requirement(
        id="FW-S-117",
        hazard="A pack is called stricter although it allows more insulin in some state.",
        severity=5,
        text="The stricter side of a limit shall be the one on which the greatest allowed dose rises in no state; a "
        "limit without such a side shall count as weaker if it differs at all. However a pack was made, it shall be "
        "held to the built-in floor before it is planned with.",
        enforced=(
            "domains.treatment.pack:KINDS",
            "domains.treatment.pack:held",
            "domains.treatment.loop:insulin_agent",
        ),
        tests=(
            PACK + "test_the_stricter_side_of_a_limit_never_raises_the_greatest_allowed_dose",
            PACK + "test_limits_stricter_together_never_raise_the_greatest_allowed_dose",
            PACK + "test_a_limit_without_a_stricter_side_loosens_some_states_and_tightens_others",
            PACK + "test_a_pack_made_in_memory_is_held_to_the_floor_too",
        ),
    ),
)
