"""How long an engine has for its calls once its pod is to end."""

from typing import Any

from tests.domain.kubernetes.test_render import GOLDENS, container, of_kind, rendered


def test_engine_finishes_its_calls_within_the_time_a_pod_has_to_end():
    def told(objects: list[dict[str, Any]]) -> str:
        args = container(objects)["args"]
        return str(args[args.index("--shutdown-timeout") + 1])

    pod = of_kind(GOLDENS["gpu"], "Deployment")["spec"]["template"]["spec"]
    sleep_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep_s + int(told(GOLDENS["gpu"])) < pod["terminationGracePeriodSeconds"]
    for asked, given in ((600, "590"), (0, "0")):
        overrides = {"runtime_overrides": {"termination_grace_period_seconds": asked}}
        objects = rendered("gpu", advanced_configuration=overrides)
        assert told(objects) == given
        assert of_kind(objects, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 5 + asked
    own = container(rendered("gpu", engine_args=["--shutdown-timeout", "7"]))["args"]
    assert own[-2:] == ["--shutdown-timeout", "7"], "the last one counts, so the spec's own does"
