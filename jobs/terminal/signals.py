"""Which signals end a command as Ctrl-C does. Light: the command line reads it before anything else."""

import signal


def handled() -> list[int]:
    """SIGINT, SIGTERM and SIGHUP, without those that are ignored, as `nohup` asks for."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    found = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in found if signal.getsignal(number) != signal.SIG_IGN]


def end_as_ctrl_c_does() -> None:
    """From now on SIGTERM and SIGHUP raise KeyboardInterrupt too."""
    for number in handled():
        signal.signal(number, signal.default_int_handler)
