/* The live handover in Promela, written from the design of the protocol and not from the checker's code. One wave with one
 * member is carried from the source to the target, and back (-DBACK=1), while users write in either isolation level. An
 * outsider's row may be given to the member (-DGIVE=1) while somebody adds a child to it. Processes that carry the move
 * are killed, lose their lines, and with -DSTALE=1 fall asleep, are taken over and wake up: -DFAULTS=n of all these.
 *
 * Asserted wherever anything becomes visible: at most one site accepts; all that was acknowledged is at the home; nothing is
 * applied twice; no outsider's row is at the target. Claimed (-DLIVENESS): in the end the wave is at rest.
 *
 * Broken on purpose, one at a time: -D NO_DRAIN NO_LOCK NO_TAIL NO_ENTERED NO_LEASE NO_TERM NO_FENCE NO_SEAM NO_AHEAD
 * OPEN_IN_DOUBT EARLY_RELEASE NO_RETURN ONE_ROUND PASSED_BY
 */
#ifndef FAULTS
#define FAULTS 1
#endif
#ifndef BACK
#define BACK 0
#endif
#ifndef GIVE
#define GIVE 0
#endif
#ifndef STALE
#define STALE 0
#endif
#ifndef SNAPSHOTS
#define SNAPSHOTS 0
#endif

#define S 0
#define T 1

/* marks */
#define ABSENT   0
#define OPEN     1
#define CLOSING  2
#define DEPARTED 3
#define ARRIVING 4
#define RESIDENT 5

/* rows, as bits: 0-2 by writers, 4 from the beginning, the row that may be given, and its child */
#define BASE  16
#define CHILD 64
#define GIFT  128
#define OWN   31
#define LOG   3        /* transactions: each writer commits one */

byte mark[2];
byte rows[2];
byte promised = BASE + GIVE * GIFT;  /* acknowledged, wherever */
bool given;            /* the gift is the member's */
byte logged[6];        /* [site * LOG + n]: what the transaction wrote */
byte length[2];
byte unseen[2];        /* entries that are in the log and not visible yet */
byte applied[2];       /* of the stream that leaves this site: the position, committed at the other */
byte seen[2];          /* what the snapshot saw that this stream continues */
byte ahead[2];         /* what the snapshot saw in which the gift was read */
byte writing[2];       /* writers with a table lock */
byte joining[2];       /* those of them who found the owner through another table */
byte shared[2];        /* writers with the wave's lock */
byte alone[2];         /* the process that has it for itself */
byte snapshot[2];      /* writers with a snapshot of here */
byte stale[2];         /* those of them whose snapshot is older than a fence */
byte entered[2];       /* a row came in while the wave was closing, since a process looked: a bit for each of them */
byte lease[2];
byte term[2];
byte newest = 1;       /* the holder, as the control database has it */
byte faults = FAULTS;
bool ordered_back, published, home_again, rest;

/* one arrival on its way */
bool sent;
byte sent_site, sent_lease, sent_term, sent_from, sent_to, sent_by;
byte answer[FAULTS + 2];  /* to each process: 1 it arrived, 2 it was refused */

#define accepts(x)  (mark[x] == OPEN || mark[x] == CLOSING || mark[x] == RESIDENT)
#define visible(x)  (((1 << length[x]) - 1) & ~unseen[x])
#define serves(x)   (mark[x] == OPEN || mark[x] == RESIDENT)
#define at_target   (mark[S] != RESIDENT && (mark[T] == RESIDENT || mark[T] == CLOSING || mark[T] == DEPARTED))

inline check() {
	assert(!(accepts(S) && accepts(T)));
	if
	:: at_target -> assert((rows[T] & OWN) == (promised & OWN))
	:: else -> assert((rows[S] & OWN) == (promised & OWN))
	fi;
	if
	:: !given -> assert((rows[S] & (GIFT + CHILD)) == (promised & (GIFT + CHILD))); assert((rows[T] & (GIFT + CHILD)) == 0)
	:: given && at_target -> assert((rows[T] & (GIFT + CHILD)) == (promised & (GIFT + CHILD)))
	:: else -> assert((rows[S] & (GIFT + CHILD)) == (promised & (GIFT + CHILD)))
	fi
}

inline fence(x) { stale[x] = stale[x] | snapshot[x] }

/* ---- writers ---- */

/* The guard, asked about the mark m: the write happens, under the wave's lock while the wave is closing. */
inline write(x, m, concerned, joined) {
	writing[x] = writing[x] | me;
	if
	:: joined -> joining[x] = joining[x] | me
	:: else
	fi;
	if
	:: concerned && m == CLOSING ->
		shared[x] = shared[x] | me;
		if
		:: row == GIFT -> entered[x] = 255
		:: else
		fi
	:: else
	fi
}
#define passes(x, m) ((m == OPEN || m == RESIDENT) || (m == CLOSING && alone[x] == 0))

inline finish() {
	writing[x] = writing[x] & ~me; joining[x] = joining[x] & ~me; shared[x] = shared[x] & ~me;
	snapshot[x] = snapshot[x] & ~me; stale[x] = stale[x] & ~me
}

proctype Writer(byte me; byte row) {
	byte x, entry, saw;
	bool gift;
again:
	if
	:: atomic { row != CHILD && passes(S, mark[S]) -> x = S; write(x, mark[S], true, false) }
	:: atomic { row != CHILD && row != GIFT && passes(T, mark[T]) -> x = T; write(x, mark[T], true, false) }
	:: atomic { row == GIFT && mark[S] == DEPARTED -> goto over }   /* DM001: who was to get it lives elsewhere */
	:: atomic { row == CHILD && !given -> x = S; write(x, OPEN, false, true) }
	:: atomic { row == CHILD && given && passes(S, mark[S]) -> x = S; write(x, mark[S], true, true) }
	:: atomic { row == CHILD && given && passes(T, mark[T]) -> x = T; write(x, mark[T], true, true) }
#if SNAPSHOTS
	:: atomic {
		row != GIFT && mark[S] != ABSENT -> x = S; saw = mark[S]; gift = given; snapshot[S] = snapshot[S] | me
	   };
	   goto old
	:: atomic {
		row == 1 && accepts(T) -> x = T; saw = mark[T]; gift = given; snapshot[T] = snapshot[T] | me
	   };
	   goto old
#endif
	fi;
	goto written;
old:
	if
#ifdef NO_FENCE
	:: atomic { (row != CHILD || gift) && passes(x, saw) -> write(x, saw, true, row == CHILD) }
	:: atomic { row == CHILD && !gift -> write(x, saw, false, true) }
#else
	:: atomic { !(stale[x] & me) && (row != CHILD || gift) && passes(x, saw) -> write(x, saw, true, row == CHILD) }
	:: atomic { !(stale[x] & me) && row == CHILD && !gift -> write(x, saw, false, true) }
	:: atomic { (stale[x] & me) -> finish(); x = 0; saw = 0; gift = false; goto again }   /* 40001 */
#endif
	:: atomic { (row != CHILD || gift) && !(saw == OPEN || saw == RESIDENT || saw == CLOSING) ->
		finish(); x = 0; saw = 0; gift = false; goto again }                         /* DM001, DM002 */
	fi;
written:
	atomic {
		entry = length[x];
		logged[x * LOG + entry] = row;
		unseen[x] = unseen[x] | (1 << entry);
		length[x]++
	};
	atomic {
		unseen[x] = unseen[x] & ~(1 << entry);
		promised = promised | row;
		rows[x] = rows[x] | row;
		if
		:: row == GIFT -> given = true
		:: else
		fi;
		finish();
		check();
		x = 0; entry = 0; saw = 0; gift = false
	};
over:
	skip
}

/* ---- the stream ---- */

inline carry(x, g) {
	n = logged[x * LOG + applied[x]];
	if
#ifdef NO_SEAM
	:: false
#else
	:: (seen[x] >> applied[x]) & 1
#endif
	:: else ->
		if
		:: n == GIFT ->
			rows[g] = rows[g] | (rows[x] & (GIFT + CHILD));
#ifndef NO_AHEAD
			ahead[x] = visible(x)
#endif
		:: n == CHILD ->
			if
			:: (rows[g] & GIFT) && !((ahead[x] >> applied[x]) & 1) ->
				assert(!(rows[g] & CHILD));
				rows[g] = rows[g] | CHILD
			:: else
			fi
		:: else ->
			assert(!(rows[g] & n));
			rows[g] = rows[g] | n
		fi
	fi;
	applied[x]++;
	n = 0
}
/* A gift is read when its giving is visible, and all that the stream passed by before it; and it is not for a tail. */
#define is_gift(x, k) (logged[x * LOG + k] == GIFT && !((seen[x] >> k) & 1))
#ifdef PASSED_BY
#define readable(x)   (!is_gift(x, applied[x]) || !((unseen[x] >> applied[x]) & 1))
#else
#define readable(x)   (!is_gift(x, applied[x]) || !(unseen[x] & ((2 << applied[x]) - 1)))
#endif

/* A new term: what was sent to the site in a former one is never valid again, however many terms there are. */
#define FORMER 2
inline next_term(g) {
	term[g] = 1 - term[g];
	if
	:: sent && sent_site == 1 - (g) -> sent_term = FORMER
	:: else
	fi
}

/* ---- the line: what was sent is committed, now or late, or lost ---- */

#ifdef NO_LEASE
#define sent_in_lease (true)
#else
#define sent_in_lease (sent_lease == lease[1 - x])
#endif
#ifdef NO_TERM
#define sent_in_term (true)
#else
#define sent_in_term (sent_term == term[1 - x])
#endif

active proctype Line() {
	byte x, n;
end_line:
	do
	:: atomic {
		sent ->
		x = sent_site;
		if
		:: sent_in_lease && sent_in_term && sent_from == applied[x] && mark[1 - x] == ARRIVING ->
#ifdef NO_TAIL
			applied[x] = sent_to;
#endif
			do
			:: applied[x] < sent_to -> carry(x, 1 - x)
			:: else -> break
			od;
			mark[1 - x] = RESIDENT;
			term[1 - x] = 1 - term[1 - x];
			if
			:: x == S -> seen[T] = visible(T); applied[T] = length[T]; ahead[T] = 0
			:: else -> home_again = true
			fi;
			if
			:: sent_by -> answer[sent_by] = 1
			:: else
			fi
		:: else ->
			if
			:: sent_by -> answer[sent_by] = 2
			:: else
			fi
		fi;
		sent = false; sent_site = 0; sent_lease = 0; sent_term = 0; sent_from = 0; sent_to = 0; sent_by = 0; x = 0; n = 0;
		check()
	   }
	:: atomic { sent && !sent_by -> sent = false; sent_site = 0; sent_lease = 0; sent_term = 0; sent_from = 0; sent_to = 0 }
	od
}

/* ---- a process that carries the move ---- */

#ifdef NO_LEASE
#define holds(x) (true)
#else
#define holds(x) (lease[x] == me)
#endif

/* It dies here, or another takes the move over from it and it does not know. */
inline peril() {
	if
	:: skip
	:: atomic { faults > 0 && newest == me -> faults--; newest++; run Mover(newest) }; goto dead
#if STALE
	:: atomic { faults > 0 && newest == me -> faults--; newest++; run Mover(newest) }
#endif
	fi
}

proctype Mover(byte me) {
	byte x, current, waited, last, n;
	atomic { newest == me -> lease[S] = me };
	atomic { lease[T] = me };
	peril();
recover:
	/* nothing that was sent before counts from here on */
	atomic {
		x = (at_target || home_again -> T : S);
		if
		:: holds(1 - x) -> next_term(1 - x)
		:: else -> goto dead
		fi
	};
	peril();
	if
	:: atomic { mark[1 - x] == RESIDENT -> goto publish }
	:: atomic { mark[1 - x] != RESIDENT && (mark[x] == CLOSING || mark[x] == DEPARTED) ->
		if
		:: holds(x) -> mark[x] = (x == S -> OPEN : RESIDENT); fence(x); check()
		:: else -> goto dead
		fi }
	:: atomic { mark[1 - x] != RESIDENT && serves(x) }
	:: atomic { mark[1 - x] != RESIDENT && (mark[x] == ARRIVING || mark[x] == ABSENT) -> goto dead }
	fi;
	if
	:: x == T && !ordered_back -> goto publish   /* it lives at the target, and may stay */
	:: x == T && ordered_back
	:: x == S && mark[T] == ARRIVING
	:: x == S && mark[T] != ARRIVING && mark[T] != ABSENT -> goto recover
	:: x == S && mark[T] == ABSENT ->
		atomic {   /* the target expects the wave, and has it as a snapshot of the source has */
			if
			:: holds(T) ->
				mark[T] = ARRIVING;
				rows[T] = rows[S] & (given -> OWN + GIFT + CHILD : OWN);
				seen[S] = visible(S)
			:: else -> goto dead
			fi
		}
	fi;
open_stream:
	current = term[1 - x];
	peril();
stream:
	do
	:: atomic { applied[x] < length[x] && readable(x) && holds(1 - x) && term[1 - x] == current -> carry(x, 1 - x) }
#ifdef LIVENESS
	:: applied[x] == length[x] || !readable(x) -> break   /* it catches up first, or might choose never to */
#else
	:: break
#endif
	od;
	peril();
	atomic {
		if
		:: holds(x) -> mark[x] = CLOSING; fence(x); check()
		:: else -> goto dead
		fi
	};
drain:
	atomic { entered[x] = entered[x] & ~(1 << me); waited = writing[x] };
#ifndef NO_DRAIN
	do
	:: (writing[x] & waited) == 0 -> break
	:: atomic { applied[x] < length[x] && readable(x) && holds(1 - x) && term[1 - x] == current -> carry(x, 1 - x) }
	od;
#ifndef ONE_ROUND
	atomic { fence(x); waited = joining[x] };
	do
	:: (joining[x] & waited) == 0 -> break
	:: atomic { applied[x] < length[x] && readable(x) && holds(1 - x) && term[1 - x] == current -> carry(x, 1 - x) }
	od;
#endif
#endif
	waited = 0;
	if
	:: x == T -> atomic { if :: holds(S) -> mark[S] = ARRIVING :: else -> goto dead fi }
	:: else
	fi;
	peril();
#ifndef NO_LOCK
	atomic { shared[x] == 0 && alone[x] == 0 -> alone[x] = me };
#endif
#ifdef EARLY_RELEASE
	alone[x] = 0;
#endif
#ifndef NO_ENTERED
	if
	:: atomic { (entered[x] >> me) & 1 -> alone[x] = (alone[x] == me -> 0 : alone[x]); goto drain }
	:: else
	fi;
#endif
	peril();
	atomic {
		if
		:: holds(x) && mark[x] == CLOSING -> mark[x] = DEPARTED; fence(x); last = length[x]; check()
		:: else -> goto dead
		fi
	};
	peril();
	atomic {
		n = applied[x];
		do
		:: n < last && !is_gift(x, n) -> n++
		:: n < last && is_gift(x, n) -> n = 0; goto back
		:: n >= last -> n = 0; break
		od
	};
	atomic {
		!sent ->
		sent = true; sent_site = x; sent_lease = me; sent_term = current; sent_from = applied[x]; sent_to = last;
		sent_by = me; answer[me] = 0
	};
	if
	:: atomic { answer[me] == 1 -> answer[me] = 0; goto release }
	:: atomic { answer[me] == 2 -> answer[me] = 0; goto back }
	:: atomic { faults > 0 && sent_by == me -> faults--; sent_by = 0 };   /* nobody hears how it ends */
		atomic {
			if
			:: holds(1 - x) -> next_term(1 - x)
			:: else -> goto dead
			fi;
			if
#ifndef OPEN_IN_DOUBT
			:: mark[1 - x] == RESIDENT -> goto release
#endif
			:: else -> goto back
			fi
		}
	:: atomic { faults > 0 && sent_by == me && newest == me -> faults--; sent_by = 0; newest++; run Mover(newest) };
		goto dead
	fi;
back:
	atomic {
#ifdef NO_RETURN
		(false);
#endif
		if
		:: holds(x) && mark[x] == DEPARTED -> mark[x] = (x == S -> OPEN : RESIDENT); fence(x); check()
		:: else -> goto dead
		fi;
		alone[x] = (alone[x] == me -> 0 : alone[x]);
		last = 0
	};
	goto recover;
release:
	atomic { alone[x] = (alone[x] == me -> 0 : alone[x]); last = 0 };
	peril();
publish:
	/* the session that held the move is gone from whoever was taken over */
	atomic {
		if
		:: newest == me -> published = true
		:: else -> goto dead
		fi
	};
	peril();
#if BACK
	if
	:: atomic { newest == me && mark[S] == RESIDENT -> rest = true }
	:: atomic { newest == me && mark[S] != RESIDENT -> ordered_back = true };
		goto recover
	:: newest != me -> goto dead
	fi;
#else
	atomic {
		if
		:: newest == me -> rest = true
		:: else
		fi
	};
#endif
dead:
	atomic {
		alone[S] = (alone[S] == me -> 0 : alone[S]);
		alone[T] = (alone[T] == me -> 0 : alone[T]);
		sent_by = (sent_by == me -> 0 : sent_by);
		x = 0; current = 0; waited = 0; last = 0; n = 0
	}
}

init {
	atomic {
		mark[S] = OPEN; mark[T] = ABSENT;
		rows[S] = promised;
		run Mover(1);
#if GIVE
		run Writer(1, GIFT);
		run Writer(2, CHILD);
#else
		run Writer(1, 1);
		run Writer(2, 2);
#endif
	}
}

#define serves_once ((serves(S) || serves(T)) && !(serves(S) && serves(T)))
#ifdef LIVENESS
ltl comes_to_rest { <> (rest && serves_once) }
#endif
