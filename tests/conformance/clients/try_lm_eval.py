"""lm-eval: the requests of its own model classes, with the gateway's tokenizer."""

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from telling import API, check, run


def instance(kind: str, *arguments: object) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@check("generate_until over chat")
def _() -> None:
    model = LocalChatCompletion(
        model="default", base_url=f"{API}/chat/completions", tokenized_requests=False
    )
    asked = ([{"role": "user", "content": "Hello"}], {"until": ["\n\n"], "max_gen_toks": 12})
    import json

    from lm_eval.models.api_models import JsonChatStr

    prompt = JsonChatStr(json.dumps(asked[0]))
    (text,) = model.generate_until([instance("generate_until", prompt, asked[1])])
    assert text


@check("generate_until over completions, with the remote tokenizer")
def _() -> None:
    (text,) = completions().generate_until(
        [instance("generate_until", "Once upon a time", {"until": ["\n\n"], "max_gen_toks": 12})]
    )
    assert text


@check("loglikelihood, with the remote tokenizer")
def _() -> None:
    pairs = [("Once upon a", " time"), ("Once upon a", " qqq")]
    asked = [instance("loglikelihood", *pair) for pair in pairs]
    (likely, _), (unlikely, _) = completions().loglikelihood(asked)
    assert 0 > likely > unlikely


def completions() -> LocalCompletionsAPI:
    return LocalCompletionsAPI(
        model="default", base_url=f"{API}/completions", tokenizer_backend="remote", max_length=1024
    )


run()
