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
from tests.service.test_generate import *  # noqa: F403
from tests.service.test_model_and_tokens import *  # noqa: F403
from tests.service.test_overload import *  # noqa: F403
from tests.service.test_session import *  # noqa: F403
