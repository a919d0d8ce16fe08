"""A gateway behaves as a pod does: the tests of a pod's gRPC door, with a gateway before it.

What is not here tells of the gateway's own models and limits, or of things that a pod does to itself.
"""

from __future__ import annotations

from tests.service.test_bad_inputs import (  # noqa: F401
    test_a_chat_for_a_model_without_a_template,
    test_a_field_of_a_later_protocol_is_refused_not_ignored,
    test_a_message_over_the_limit_is_refused_by_grpc,
    test_an_unexpected_error_is_internal_and_keeps_its_text,
    test_bytes_that_are_no_message,
    test_every_broken_rule_is_told_at_once,
    test_invalid_utf8_names_its_field,
    test_nothing_to_tokenize,
    test_prompts,
    test_sampling,
    test_special_tokens_around_a_chat_are_the_templates,
    test_token_ids_to_detokenize_outside_the_vocabulary,
)
from tests.service.test_continue import *  # noqa: F403
from tests.service.test_decoding import (  # noqa: F401
    test_a_chat_goes_on_from_an_echo_as_from_its_answer,
    test_a_continuation_has_no_prompt_logprobs,
    test_a_request_of_a_session_ends_with_its_last_output,
    test_a_resumption_has_an_entry_for_each_output,
    test_an_echo_is_the_prompt_before_each_output,
    test_an_output_that_repeats_itself_ends,
    test_beams_are_sorted_and_no_worse_than_greedy,
    test_cancel_ends_every_output,
    test_cancelling_a_call_frees_the_blocks_of_all_outputs,
    test_outputs_differ_repeat_themselves_and_the_first_is_that_of_a_request_for_one,
    test_prompt_logprobs_are_of_all_tokens_but_the_first,
    test_several_outputs_cannot_be_held,
    test_several_outputs_go_on_where_another_server_left_them,
    test_the_best_outputs_come_with_their_scores,
    test_the_prompt_counts_once_and_every_output,
)
from tests.service.test_generate import *  # noqa: F403
from tests.service.test_model_and_tokens import *  # noqa: F403
from tests.service.test_overload import *  # noqa: F403
from tests.service.test_session import *  # noqa: F403
