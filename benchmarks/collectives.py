"""Collective operations in the text of a compiled program, by kind and by the code they are of."""

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
_BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4, "f64": 8, "s64": 8, "u64": 8}
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")


class Collective(NamedTuple):
    kind: str
    num_bytes: int
    functions: list[str]
    """Functions of trpo_jax on the stack when the operation was traced, the outermost first. Where
    the compiler merged several operations they are those of the first."""
    in_loop: bool


def collectives(text: str) -> list[Collective]:
    """Those of a program, `compiled.as_text()`."""
    stacks = _Stacks(text)
    found = []
    for line in text.splitlines():
        operation = _OPERATION.search(line)
        if operation:
            frame = re.search(r"stack_frame_id=(\d+)", line)
            functions = stacks.functions(int(frame.group(1))) if frame else []
            in_loop = "while/body" in line
            kind = operation.group(2)
            found.append(Collective(kind, _num_bytes(operation.group(1)), functions, in_loop))
    return found


def _num_bytes(shapes: str) -> int:
    return sum(
        _BYTES[dtype] * math.prod(int(size) for size in sizes.split(",") if size)
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    )


class _Stacks:
    """The tables of files, functions, places and frames at the head of the text."""

    def __init__(self, text: str):
        def lines(title: str) -> list[str]:
            return text.partition(f"\n{title}\n")[2].partition("\n\n")[0].splitlines()

        def names(title: str) -> dict[int, str]:
            pairs = (re.match(r'(\d+) "(.*)"', line) for line in lines(title))
            return {int(pair.group(1)): pair.group(2) for pair in pairs if pair}

        def records(title: str) -> dict[int, dict[str, int]]:
            return {
                int(line.split()[0]): {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", line)}
                for line in lines(title)
            }

        self._files, self._functions = names("FileNames"), names("FunctionNames")
        self._places, self._frames = records("FileLocations"), records("StackFrames")

    def functions(self, frame: int) -> list[str]:
        names: list[str] = []
        while frame:
            record = self._frames[frame]
            place = self._places[record["file_location_id"]]
            if "/trpo_jax/" in self._files[place["file_name_id"]]:
                names.insert(0, self._functions[place["function_name_id"]])
            frame = record["parent_frame_id"] - 1
        return names
