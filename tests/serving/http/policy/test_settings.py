"""Settings from the environment: kinds, limits, keys, and messages about what is wrong."""

from pathlib import Path

import pytest

from base.errors import UsageError
from serving.http.policy.settings import Settings, from_environment


def test_every_setting_has_a_variable() -> None:
    settings = from_environment(
        {
            "LOOKALIKE_ENCODER": "e.onnx",
            "LOOKALIKE_COLLECTION": "shop",
            "LOOKALIKE_READ_KEY": "read-read,another-reader",
            "LOOKALIKE_WRITE_KEY": "write-write",
            "LOOKALIKE_INSECURE": "true",
            "LOOKALIKE_THREADS": "3",
            "LOOKALIKE_MAX_IMAGES": "8",
            "LOOKALIKE_BODY_SECONDS": "2.5",
            "PATH": "ignored",
        }
    )
    assert settings.encoder == Path("e.onnx")
    assert settings.collection == Path("shop")
    assert settings.read_keys == ("read-read", "another-reader")
    assert settings.write_keys == ("write-write",)
    assert settings.insecure
    assert (settings.threads, settings.max_images, settings.body_seconds) == (3, 8, 2.5)


def test_one_key_for_both() -> None:
    assert from_environment({"LOOKALIKE_API_KEY": "for-everything"}).write_keys == (
        "for-everything",
    )


def test_a_key_for_both_stands_beside_write_keys() -> None:
    environ = {"LOOKALIKE_API_KEY": "for-everything", "LOOKALIKE_WRITE_KEY": "one-more-key"}
    assert set(from_environment(environ).write_keys) == {"for-everything", "one-more-key"}


def test_an_empty_variable_is_absent() -> None:
    assert from_environment({"LOOKALIKE_API_KEY": "", "LOOKALIKE_MAX_IMAGES": ""}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LOOKALIKE_APIKEY", "secretsecret", "did you mean LOOKALIKE_API_KEY"),
        ("LOOKALIKE_XYZ", "1", "no such setting"),
        ("LOOKALIKE_THREADS", "two", "LOOKALIKE_THREADS is 'two': a whole number is needed"),
        ("LOOKALIKE_BODY_SECONDS", "long", "a number is needed"),
        ("LOOKALIKE_BODY_SECONDS", "nan", "give a number above 0"),
        ("LOOKALIKE_MAX_IMAGES", "0", "give a number above 0"),
        ("LOOKALIKE_MAX_IMAGES", "500", "would never be admitted"),
        ("LOOKALIKE_INSECURE", "perhaps", "1 or 0 is needed"),
        ("LOOKALIKE_API_KEY", "short", "give at least 8"),
        ("LOOKALIKE_API_KEY", "schlüssel-schlüssel", "printable ASCII"),
    ],
)
def test_what_is_wrong_is_named(variable: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_environment({variable: value})


@pytest.mark.parametrize("service", ["LOOKALIKE", "LOOKALIKE_READER", "LOOKALIKE_MAX"])
def test_links_to_services_are_passed_over(service: str) -> None:
    """Kubernetes sets them for a Service of such a name."""
    links = {
        "SERVICE_HOST": "10.43.7.1",
        "SERVICE_PORT": "80",
        "SERVICE_PORT_HTTP": "80",
        "PORT": "tcp://10.43.7.1:80",
        "PORT_80_TCP": "tcp://10.43.7.1:80",
        "PORT_80_TCP_PROTO": "tcp",
        "PORT_80_TCP_PORT": "80",
        "PORT_80_TCP_ADDR": "10.43.7.1",
        "PORT_53_UDP": "udp://[fd00::1]:53",
        "PORT_53_UDP_PROTO": "udp",
    }
    environ = {f"{service}_{name}": text for name, text in links.items()}
    assert from_environment(environ) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LOOKALIKE_PORT", "3000"),
        ("LOOKALIKE_SERVICE_PORT", "http"),
        ("LOOKALIKE_PORT_80_TCP_PROTO", "secretsecret"),
        ("LOOKALIKE_TRUSTED_PROXIES", "nginx"),
    ],
)
def test_what_only_looks_like_a_link_is_refused(variable: str, value: str) -> None:
    with pytest.raises(UsageError):
        from_environment({variable: value})


def test_keys_do_not_show() -> None:
    settings = Settings(read_key="very-secret", write_key="more-secret", metrics_key="other-secret")
    assert "secret" not in repr(settings)
