"""Recording networks that check what they are given."""

import dis
import sys

from torch import fx


class AssertingTracer(fx.Tracer):
    """Takes assertions of a forward for true."""

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Returns that an assertion holds; any other question is control flow."""
        frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
        ahead = [i for i in dis.get_instructions(frame.f_code) if i.offset >= frame.f_lasti][:4]
        jump = next((n for n, i in enumerate(ahead) if "JUMP" in i.opname), None)
        if jump is not None and ahead[jump].opname.endswith("IF_TRUE"):
            behind = " ".join(f"{i.opname} {i.argval}" for i in ahead[jump + 1 :])
            if "ASSERTION_ERROR" in behind or "AssertionError" in behind:
                return True
        return super().to_bool(obj)
