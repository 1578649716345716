"""The safety requirements of the engine, which hold in every domain; see `evidence.safety`."""

from __future__ import annotations

from foreworld.evidence.safety import Requirement

AGENT, RECORD, MONITOR = "tests/agent/test_agent.py::", "tests/agent/test_record.py::", "tests/agent/test_monitor.py::"
PLANNERS = "tests/planning/test_planners.py::"
PLAN, RAIL, PACK = (
    "tests/planning/test_plan.py::",
    "tests/planning/test_guardrail.py::",
    "tests/planning/test_pack.py::",
)
CHECK, AUDIT, CLI = "tests/agent/test_check.py::", "tests/agent/test_audit.py::", "tests/cli/test_cli.py::"

PLANNING = (
    Requirement(
        id="FW-S-001",
        hazard="A low cost or a preference buys a harmful action.",
        severity=5,
        text="A candidate that breaks a guardrail shall rank below every one that breaks none, whatever either costs; "
        "profiles shall not touch guardrails.",
        enforced=("planning.planners.judged:judge", "planning.profile:Profile"),
        tests=(
            PLAN + "test_no_reward_buys_a_violation",
            PLAN + "test_no_cost_however_high_ranks_a_feasible_candidate_below_an_infeasible_one",
            "tests/planning/test_planners.py::"
            "test_a_plan_keeps_every_guardrail_and_bound_and_a_refusal_means_that_no_end_of_the_space_was_safe",
            AGENT + "test_the_profile_ranks_and_leaves_every_guardrail_alone",
        ),
        covers=("refusal no safe plan",),
    ),
    Requirement(
        id="FW-S-002",
        hazard="A forecast, cost or margin that is NaN or infinite passes for a safe one.",
        severity=5,
        text="What is NaN, infinite or missing shall count as infeasible, and the answer shall be a refusal.",
        enforced=(
            "forecast.forecaster:Forecaster.forecast",
            "forecast.forecaster:check_finite",
            "planning.guardrail:StateGuardrail.margin",
            "planning.planners.judged:judge",
        ),
        tests=(
            RAIL + "test_nan_at_a_step_that_counts_is_nan",
            PLAN + "test_a_nan_cost_refuses",
            PLAN + "test_a_refusal_names_its_cause",
            "tests/forecast/test_forecaster.py::test_what_is_not_finite_is_not_hidden_by_the_bounds_of_the_quantity",
            AGENT + "test_a_model_that_gives_nan_is_refused_and_the_fallback_acts",
        ),
        covers=("refusal model invalid",),
    ),
    Requirement(
        id="FW-S-003",
        hazard="The planner picks the candidate about which the model is most wrong, and the stated risk is exceeded.",
        severity=4,
        text="A state guardrail's margin shall be tightened by one score per trajectory, calibrated on chosen plans "
        "that were carried out, by how long the subject is known.",
        enforced=("agent.calibrate:fit_trajectory", "planning.guardrail:StateGuardrail.margin"),
        tests=(
            "tests/agent/test_calibrate.py::test_trajectory_bounds_hold_their_risk_on_fresh_visits",
            "tests/agent/test_calibrate.py::"
            "test_the_claimed_risk_holds_in_every_stage_of_being_known_and_not_only_on_average",
            RAIL + "test_a_larger_score_only_lowers_the_margin",
            RAIL + "test_the_score_is_that_of_how_long_the_subject_is_known",
        ),
    ),
    Requirement(
        id="FW-S-004",
        hazard="A guardrail claims a risk that nobody calibrated.",
        severity=4,
        text="A guardrail, risk level or stretch of steps that was not calibrated shall be an error, and a model "
        "without calibration shall not be planned with on the command line.",
        enforced=(
            "forecast.forecaster:Calibration.trajectory_bounds",
            "planning.pack:check_calibrated",
            "cli.plan:load_model",
        ),
        tests=(
            RAIL + "test_a_calibration_of_other_guardrails_is_refused_instead_of_counting_as_zero",
            PACK + "test_guardrails_must_be_among_those_calibrated",
            CLI + "test_a_model_without_calibration_is_not_planned_with",
        ),
    ),
    Requirement(
        id="FW-S-005",
        hazard="A guardrail is changed, by learning, at run time or in a file, and nobody notices.",
        severity=4,
        text="Guardrails shall be frozen, and their hash and that of their pack shall be in every plan and record.",
        enforced=("planning.guardrail:digest", "planning.pack:Pack.note", "agent.agent:Agent.resolve"),
        tests=(
            RAIL + "test_a_guardrail_cannot_be_changed_and_its_digest_tells_every_field",
            PACK + "test_the_hash_follows_what_is_said_and_not_how_it_is_written",
            "tests/agent/test_packs.py::test_every_decision_carries_the_hash_of_its_pack",
        ),
    ),
    Requirement(
        id="FW-S-006",
        hazard="A weakened set of limits is used, by mistake or in silence.",
        severity=5,
        text="A guardrail pack that is weaker than the built-in floor in any number shall be refused with every such "
        "number named, unless a reason is given.",
        enforced=("planning.pack:admit", "planning.pack:compare"),
        tests=(
            PACK + "test_each_number_has_a_weaker_and_a_stricter_side",
            PACK + "test_a_missing_guardrail_is_weaker_an_added_one_is_stricter_and_another_side_is_another_guardrail",
            PACK + "test_a_weaker_pack_is_refused_with_every_weaker_number",
            PACK + "test_what_is_wrong_is_named",
        ),
    ),
    Requirement(
        id="FW-S-007",
        hazard="A reader takes a plan made with weakened limits for an ordinary one.",
        severity=4,
        text="The reason for a weakened pack, and what is weaker, shall be recorded with every decision and told "
        "wherever one is explained.",
        enforced=("planning.plan:weakened", "agent.record:Recorder.append", "cli.log:verify"),
        tests=(
            PACK + "test_an_explanation_names_a_weakened_pack_and_its_reason_and_no_other",
            "tests/agent/test_packs.py::test_a_weakened_pack_is_told_and_recorded_with_its_reason",
            "tests/cli/test_pack_cli.py::test_a_weaker_pack_needs_a_reason_which_is_told_recorded_and_replayed",
        ),
    ),
)

WATCHING = (
    Requirement(
        id="FW-S-011",
        hazard="A plan rests on data that are old, few or missing.",
        severity=5,
        text="Where a predicted quantity was not measured lately, or too little was seen, there shall be no plan.",
        enforced=("agent.configurator:Configurator.configure", "agent.agent:Agent.decide"),
        tests=(
            AGENT + "test_stale_data_are_refused_and_the_fallback_acts",
            AGENT + "test_data_are_stale_from_beyond_fifteen_minutes",
            AGENT + "test_a_subject_that_was_never_measured_is_refused",
            AGENT + "test_too_few_moments_are_no_ground_for_a_plan",
        ),
        covers=("refusal stale or missing data",),
    ),
    Requirement(
        id="FW-S-012",
        hazard="The model is asked about a state unlike those it was trained on.",
        severity=4,
        text="A novel state shall be refused, at a stated false-alarm rate, and where the ensemble disagrees the "
        "usable horizon shall shrink; a guardrail that looks further cannot be shown to hold.",
        enforced=(
            "forecast.novelty:NoveltyModel",
            "forecast.forecaster:Forecaster.forecast",
            "planning.guardrail:StateGuardrail.margin",
        ),
        tests=(
            AGENT + "test_in_a_novel_state_the_fallback_acts",
            "tests/forecast/test_novelty.py::test_fresh_familiar_states_raise_no_more_alarms_than_stated",
            "tests/forecast/test_novelty.py::test_strange_states_and_disagreeing_members_raise_alarms",
            "tests/forecast/test_forecaster.py::test_the_usable_horizon_ends_where_members_part",
            RAIL + "test_a_usable_horizon_that_ends_early_is_nan",
        ),
        covers=("refusal novel state",),
    ),
    Requirement(
        id="FW-S-013",
        hazard="The model is wrong about this subject, or broken, and sure of itself.",
        severity=5,
        text="What is measured shall be compared with what was foreseen; a model that is surprised more than in "
        "calibration shall be refused until it is well below that again.",
        enforced=("agent.monitor:Monitor.look", "agent.monitor:hindsight"),
        tests=(
            MONITOR + "test_hindsight_is_the_forecast_of_a_while_ago_told_what_was_done_since",
            MONITOR + "test_an_alarm_refuses_and_the_fallback_acts_until_surprise_is_well_below_its_limit",
            MONITOR + "test_too_much_confidence_raises_surprise",
            MONITOR + "test_limits_are_exceeded_at_the_stated_rate_by_fresh_moments",
        ),
        covers=("refusal model invalid",),
    ),
    Requirement(
        id="FW-S-014",
        hazard="A model with a wrong sign, or that does not answer to actions, plans harm before it is surprised.",
        severity=5,
        text="Where the schema says which way an action moves a quantity, a model that foresees the contrary, or no "
        "effect, shall be refused at once.",
        enforced=("agent.monitor:wrong_direction", "agent.monitor:Monitor.look"),
        tests=(MONITOR + "test_a_wrong_direction_is_seen_at_the_first_decision",),
        covers=("refusal model invalid",),
    ),
    Requirement(
        id="FW-S-015",
        hazard="A model that is late does not know yet what was just done, and would do it again.",
        severity=5,
        text="After an action that stands out, what is foreseen shall be compared with what was foreseen for it a "
        "moment before; a model that contradicts itself shall be refused for long.",
        enforced=("agent.monitor:jumps", "agent.monitor:Monitor.look"),
        tests=(
            MONITOR + "test_forecasts_are_compared_after_an_action_that_stands_out_and_only_then",
            MONITOR + "test_an_incoherent_model_stays_refused_for_long",
        ),
        covers=("refusal model invalid",),
    ),
)

ACTING = (
    Requirement(
        id="FW-S-021",
        hazard="There is no plan, and nothing sensible is done.",
        severity=5,
        text="Where no candidate is feasible, the action within every action guardrail that misses the others least "
        "shall act, by the model's forecast never worse than the fallback; where the forecast of the least action, or "
        "of one that was suggested, cannot be judged, the fallback shall act.",
        enforced=(
            "agent.agent:Agent.resolve",
            "planning.planners.judged:judge",
            "planning.planners.base:Decisions.reason",
        ),
        tests=(
            AGENT + "test_without_a_feasible_plan_recovery_acts_within_the_checker_and_no_worse_than_the_fallback",
            PLAN + "test_the_nearest_candidate_breaks_no_action_guardrail_to_mend_a_state_guardrail",
            PLANNERS + "test_what_came_nearest_is_no_answer_where_less_could_not_be_told",
        ),
        covers=("refusal no safe plan",),
    ),
    Requirement(
        id="FW-S-022",
        hazard="Something acts on a model that may not be trusted, or nothing is left that may be done.",
        severity=5,
        text="Where state, data or model bar a plan the fallback shall act on measured data alone; where the checker "
        "refuses even that, the last resort, which always passes.",
        enforced=("agent.agent:Agent.resolve", "planning.task:Task.last_resort"),
        tests=(
            AGENT + "test_stale_data_are_refused_and_the_fallback_acts",
            AGENT + "test_what_the_checker_refuses_is_replaced_by_the_fallback_and_its_words_are_kept",
            AGENT + "test_a_checker_that_refuses_every_insulin_leaves_the_last_resort",
        ),
    ),
    Requirement(
        id="FW-S-023",
        hazard="An error of model, planner or guardrail reaches the subject.",
        severity=5,
        text="Whatever is to be done shall pass an independent checker that judges measured data alone, shares neither "
        "code nor the making of its data with the model, can only refuse, and refuses what it cannot judge.",
        enforced=("agent.check:Checker.check", "agent.check:Measured.each", "agent.agent:Agent.resolve"),
        tests=(
            CHECK + "test_shares_no_code_with_the_model",
            AGENT + "test_a_fault_in_making_histories_does_not_blind_the_checker",
            CHECK + "test_never_changes_what_it_judges",
            CHECK + "test_rule_that_fails_to_compute_refuses",
            CHECK + "test_every_rule_alone_refuses_what_is_no_number",
        ),
    ),
    Requirement(
        id="FW-S-024",
        hazard="One subject's data change another's treatment.",
        severity=5,
        text="A decision shall not depend on its batch or on the order of it, and the same seed shall decide the same.",
        enforced=("agent.record:keys_of", "planning.planners.points:uniforms"),
        tests=(
            AGENT + "test_a_decision_does_not_depend_on_its_batch_nor_on_the_order_of_it",
            AGENT + "test_the_same_seed_decides_the_same_and_another_seed_searches_elsewhere",
            "tests/planning/test_planners.py::test_a_broken_subject_does_not_change_its_neighbour",
        ),
    ),
    Requirement(
        id="FW-S-025",
        hazard="A failure midway leaves the agent believing in what was not done.",
        severity=4,
        text="A decision that fails shall leave the agent as it was, and nothing shall count as done.",
        enforced=("agent.agent:Agent.decide", "agent.memory:Memory.forget"),
        tests=(
            AGENT + "test_a_decision_that_fails_leaves_the_agent_as_it_was",
            "tests/agent/test_memory.py::test_a_moment_taken_back_is_as_if_it_had_not_been_seen",
        ),
    ),
    Requirement(
        id="FW-S-026",
        hazard="A wrong value, unit or time stamp is taken in silently.",
        severity=5,
        text="A value out of its bounds, a channel that is missing, or time that does not increase shall be refused "
        "and named, and nothing of it kept.",
        enforced=("agent.memory:Memory.see", "agent.memory:Memory.act", "episodes.schema:Channel.check"),
        tests=(
            "tests/agent/test_memory.py::test_a_wrong_value_is_named_and_nothing_is_kept",
            "tests/agent/test_memory.py::test_time_must_increase_and_a_refused_moment_leaves_no_trace",
            "tests/agent/test_memory.py::test_a_missing_channel_is_a_schema_error",
            "tests/agent/test_memory.py::test_wrong_statics_are_refused",
        ),
    ),
    Requirement(
        id="FW-S-027",
        hazard="Evidence or decisions profit from what could not be known yet.",
        severity=3,
        text="Nothing after t shall reach a belief or a decision at t.",
        enforced=("model.world_model:WorldModel.encode", "agent.memory:Memory.history"),
        tests=(
            "tests/model/test_world_model.py::test_nothing_after_t_changes_the_belief_at_t",
            AGENT + "test_streaming_comes_to_the_same_belief_as_telling_the_whole_past_at_once",
        ),
    ),
)

TELLING = (
    Requirement(
        id="FW-S-031",
        hazard="A person cannot tell a refusal from a plan, or why it was made.",
        severity=4,
        text="A plan and a refusal shall say in plain sentences what was foreseen, what holds or does not and by how "
        "much, and what acts instead; a script shall get another exit code.",
        enforced=(
            "planning.plan:Plan.explain",
            "planning.plan:Refusal.explain",
            "agent.agent:Step.answer",
            "cli.plan:plan",
        ),
        tests=(
            PLAN + "test_a_plan_explains_itself_with_its_own_figures",
            PLAN + "test_a_refusal_says_which_guardrail_is_missed_and_by_how_much",
            AGENT + "test_recovery_is_explained_with_what_is_broken_and_what_acts",
            CLI + "test_a_refusal_exits_with_3_and_says_who_acts",
        ),
    ),
    Requirement(
        id="FW-S-032",
        hazard="A comparison of actions is taken for a decision, or a refused action for a possible one.",
        severity=4,
        text="What if shall do and record nothing, and shall judge every action by all that a decision passes: state, "
        "novelty, guardrails, checker.",
        enforced=("agent.whatif:compare_actions",),
        tests=(
            "tests/agent/test_whatif.py::test_asking_changes_and_records_nothing",
            "tests/agent/test_whatif.py::test_what_would_be_refused_says_by_what",
            "tests/agent/test_whatif.py::test_the_agents_own_dose_would_pass",
        ),
    ),
    Requirement(
        id="FW-S-033",
        hazard="What was decided cannot be established afterwards, or was altered.",
        severity=3,
        text="Every recorded decision shall stand in a hash chain that shows altered, removed, reordered or cut-off "
        "records, and survive a crash once acknowledged.",
        enforced=("agent.audit:AuditLog.append", "agent.audit:verify", "agent.chain:scan"),
        tests=(
            AUDIT + "test_any_flipped_byte_is_noticed_without_the_head",
            AUDIT + "test_record_rewritten_with_a_valid_hash_of_its_own_breaks_the_chain",
            AUDIT + "test_removing_the_last_records_shows_against_the_printed_head",
            AUDIT + "test_killed_while_appending_loses_nothing_that_was_acknowledged",
        ),
    ),
    Requirement(
        id="FW-S-034",
        hazard="A record does not show how a decision came about.",
        severity=3,
        text="A recorded decision shall be computed again bit for bit from its inputs, by the same model, settings and "
        "pack and no other.",
        enforced=("agent.record:replay",),
        tests=(
            RECORD + "test_the_replay_is_exact",
            RECORD + "test_a_forged_dose_is_found",
            RECORD + "test_another_model_is_refused",
            "tests/agent/test_packs.py::test_a_replay_with_another_pack_is_refused",
        ),
    ),
    Requirement(
        id="FW-S-035",
        hazard="A model file runs code, or is truncated, altered or not the one that was validated.",
        severity=5,
        text="Loading shall unpickle and execute nothing, take classes from a list, and refuse what was altered, "
        "truncated or written by a newer format.",
        enforced=("model.checkpoint:load", "agent.chain:store_arrays"),
        tests=(
            "tests/evidence/test_safety.py::test_nothing_is_unpickled_or_executed_on_load",
            "tests/model/test_checkpoint.py::test_any_altered_byte_is_refused",
            "tests/model/test_checkpoint.py::test_any_truncation_is_refused",
            "tests/model/test_checkpoint.py::test_another_class_is_refused",
            RECORD + "test_inputs_are_plain_arrays",
        ),
    ),
)

ENGINE = (*PLANNING, *WATCHING, *ACTING, *TELLING)
