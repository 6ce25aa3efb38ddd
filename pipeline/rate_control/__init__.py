"""Rate control: from what was sent and acknowledged to what is encoded next, and when it is sent. Pure, no timers.

The control law
---------------
Every frame is a burst of a few kB, so each answer is a measurement of the bottleneck, whether the link is full or not:

    left     when the frame had passed the bottleneck: its receipt minus the least one-way delay (of the last 10 s)
    service  left − max(sent, left of the frame before): the time that the bottleneck spent on it; for a frame that met
             an idle link less the mean jitter, as the pings show it
    rate     bytes / service; the *estimate* is the median of the last few

This is packet-pair measuring (Keshav, "A control-theoretic approach to flow control", SIGCOMM 1991) with BBR's two
filters (Cardwell et al., ACM Queue 14(5), 2016: least delay, delivery rate); one-way delays are taken relative to their
least, so clocks need no agreement (LEDBAT, RFC 6817). Where several edges share a queue, the time that the bottleneck
spends on the others counts as service, so each one's estimate is its share.

*When*: the newest flight's predicted `left` is when the link is free; the next frame leaves a little before. Each
answer corrects the prediction, so at most one frame waits in the link. An answer that is overdue (as a TCP timer would
say, RFC 6298) means that the link stands still: nothing more is sent into it but a probe now and then, twice as rarely
each time.

*What*: frames first, then quality. The ladder's rungs rise in bytes and fall in loss; the highest rung is taken that
uses at most FILL of the estimate at the full frame rate and does not age a frame too much. Down at once, up only after
it held for a while, and after an up that had to be taken back twice as long (the multiplicative part). Random loss
alone changes nothing: it says nothing about the rate (as in SCReAM, RFC 8298, and unlike AIMD on losses). Only where
frames go in parts does it count: a frame of more parts is lost more often.

Times are monotonic seconds, sizes bytes, rates bytes a second unless a name says kbit/s.
"""

from pipeline.rate_control.control import RateControl
from pipeline.rate_control.least_delay import LeastDelay
from pipeline.rate_control.rungs import UNCHANGED_SHARE, EncodeChoice, RateChoice, Rung, hardly_changed, pinned

__all__ = [
    "UNCHANGED_SHARE",
    "EncodeChoice",
    "LeastDelay",
    "RateChoice",
    "RateControl",
    "Rung",
    "hardly_changed",
    "pinned",
]
