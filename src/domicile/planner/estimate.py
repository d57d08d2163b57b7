"""How long a wave will take, and on what basis that is said.

The default figures were measured (README of ``benchmarks/``): 350-byte rows into a target with a primary
key and one index, two streams, two cores shared by both servers and the mover. A move of this installation
that has already run is a better basis: see ``scaled``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rates:
    """What the estimate rests on. ``seconds_per_wave`` is what a wave costs apart from its rows: fence,
    marks, handover.
    """

    copy_seconds_per_row: float
    copy_bytes_per_second: float
    verify_rows_per_second: float
    seconds_per_wave: float
    basis: str

    def wave_seconds(self, rows: int, size: int) -> float:
        """Seconds from the fence of a wave to its handover, for ``rows`` rows of ``size`` bytes together."""
        copy = rows * self.copy_seconds_per_row + size / self.copy_bytes_per_second
        return self.seconds_per_wave + copy + rows / self.verify_rows_per_second

    def for_streams(self, streams: int) -> Rates:
        """The same with another number of copy streams; more than two are not assumed to help, because
        that was not measured.
        """
        if streams >= 2:
            return self
        return replace(
            self,
            copy_seconds_per_row=self.copy_seconds_per_row * ONE_STREAM_FACTOR,
            copy_bytes_per_second=self.copy_bytes_per_second / ONE_STREAM_FACTOR,
            basis=f"{self.basis}; one stream",
        )

    def scaled(self, rows: int, size: int, seconds: float, source: str) -> Rates:
        """Corrected by a finished move: ``seconds`` for ``rows`` and ``size`` bytes; ``source`` names it
        in the basis.
        """
        assert rows > 0
        assert seconds > 0
        factor = seconds / (self.wave_seconds(rows, size) - self.seconds_per_wave)
        return replace(
            self,
            copy_seconds_per_row=self.copy_seconds_per_row * factor,
            copy_bytes_per_second=self.copy_bytes_per_second / factor,
            verify_rows_per_second=self.verify_rows_per_second / factor,
            basis=f"measured by {source}: {rows} rows, {size / MIB:.1f} MiB in {seconds:.1f} s",
        )


ONE_STREAM_FACTOR = 1.35

LAB_RATES = Rates(
    copy_seconds_per_row=3.5e-6,
    copy_bytes_per_second=200 * MIB,
    verify_rows_per_second=1_000_000,
    seconds_per_wave=1.5,
    basis="measured on 2 cores with 350-byte rows into an indexed table: about 190,000 rows/s copied by "
    "two streams, 1,000,000 rows/s verified, 1.5 s per wave for fence and handover; neither your network "
    "nor your disks are in these figures",
)
