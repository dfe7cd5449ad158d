"""The tests leave nothing with the user who runs them."""

from pathlib import Path

from clipmill.workers.clip import kept


def test_what_is_kept_with_a_user_is_kept_for_these_tests_alone(cache_of_the_tests: Path) -> None:
    assert kept._folder() == cache_of_the_tests / "clipmill" / "references"
    assert not (cache_of_the_tests / "clipmill").is_symlink()
