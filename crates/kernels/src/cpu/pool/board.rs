//! The job under way: who runs which task, and when all are done.
//!
//! Owns the words that callers and workers share while work flows. Must never know who sleeps, or what a task does.
//!
//! # Why it is sound
//! `tickets` holds the count of tasks in its upper half and the next one's number in its lower half. Adding 1 to it
//! takes a ticket: number and count come out of the same instant, so a ticket below the count belongs to the job that
//! is open then, however late the thread is that asks. A thread may ask in vain once for each job (it looks before it
//! asks again), which leaves the lower half far from overflowing.
//!
//! `task` is plain memory. It is read by holders of tickets alone, and written when all tickets of the last job were
//! handed in:
//! - *Written before read.* `publish` writes it, then stores `tickets` (Release, as part of `SeqCst`). A ticket is
//!   taken by a read-modify-write (Acquire) of that store or of one in its chain of read-modify-writes, which carries
//!   the Release on.
//! - *Read before written again.* A worker hands its tickets in by adding to `finished` (Release, as part of `SeqCst`)
//!   after its last task. The caller loads the sum (Acquire, likewise) before it returns from `finish`, and all of them
//!   are in when the sum is what the caller did not do itself. The same pair shows the caller what tasks wrote. A next
//!   caller on another thread comes after `Pool::busy`'s Release and Acquire.
//! - *Counts do not mix.* `finished` is set to zero before `tickets` opens the job, so additions of its workers follow
//!   the zero, and none of the last job's is outstanding.
//!
//! A panic takes all tickets that are left by setting `tickets` to zero, and counts them as its own. It holds one that
//! is not handed in yet, so the word is still that of its job.
//!
//! `SeqCst` is needed in two places, where each of two threads writes its own word and reads the other's, and at least
//! one must see the other: `finished` and `waiting` here, `tickets` and the count of sleepers in [`super::seats`].

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Line, spin_until};

/// The most tasks of a shared job: the halves of a word hold it, and threads that ask in vain.
pub(super) const TASKS_MAX: usize = 1 << 31;

/// Added to `finished` beside the count of tasks by a worker whose task panicked.
const PANICKED: u64 = 1 << 32;

type Task<'a> = dyn Fn(usize) + Sync + 'a;
type Panic = Box<dyn Any + Send>;

pub(super) struct Board {
    open: Line<Open>,
    /// Tasks that workers have done (lower half), and how many of the workers panicked (upper half).
    finished: Line<AtomicU64>,
    rare: Line<Rare>,
}

/// What a worker needs to begin, in one cache line.
struct Open {
    tickets: AtomicU64,
    /// The caller's closure, its lifetime forgotten.
    task: UnsafeCell<&'static Task<'static>>,
}

/// What is written only when somebody waits long or panics.
#[derive(Default)]
struct Rare {
    /// The caller sleeps on `done`.
    waiting: AtomicBool,
    done: Condvar,
    /// The first panic of a worker.
    panic: Mutex<Option<Panic>>,
}

/// What a thread did of a job.
pub(super) struct Share {
    tasks: u64,
    panic: Option<Panic>,
}

// SAFETY: `Open::task` is the only part that is not `Sync`; the module's text argues for it.
unsafe impl Sync for Board {}

impl Board {
    pub(super) fn new() -> Self {
        let open = Open { tickets: AtomicU64::new(0), task: UnsafeCell::new(&|_| ()) };
        Self { open: Line(open), finished: Line::default(), rare: Line::default() }
    }

    /// Opens a job of `tasks` tasks, 1 to [`TASKS_MAX`], and gives the caller its first ticket.
    ///
    /// # Safety
    /// The caller must be the only one between here and the end of [`finish`](Self::finish), which it must reach with
    /// the share of the tasks that [`work_off`](Self::work_off) gave it, and must keep `task` borrowed until then.
    pub(super) unsafe fn publish(&self, tasks: usize, task: &Task<'_>) -> usize {
        // SAFETY: only the lifetime changes. Holders of tickets use it, and `finish` returns when there are none.
        let task = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        // SAFETY: all tickets of the last job were handed in, so nobody reads.
        unsafe { *self.open.0.task.get() = task };
        self.finished.0.store(0, Ordering::Relaxed);
        self.open.0.tickets.store((tasks as u64) << 32 | 1, Ordering::SeqCst);
        0
    }

    /// Whether there are tickets.
    pub(super) fn is_open(&self) -> bool {
        left(self.open.0.tickets.load(Ordering::SeqCst)) > 0
    }

    fn take(&self) -> Option<usize> {
        let word = self.open.0.tickets.fetch_add(1, Ordering::Acquire);
        (left(word) > 0).then_some(word as u32 as usize)
    }

    /// Runs the task of `ticket`, and others as long as there are tickets.
    pub(super) fn work_off(&self, ticket: usize, task: &Task<'_>) -> Share {
        let mut tasks = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut ticket = Some(ticket);
            while let Some(number) = ticket {
                task(number);
                tasks += 1;
                ticket = self.take();
            }
        }));
        if outcome.is_err() {
            tasks += 1 + left(self.open.0.tickets.swap(0, Ordering::Relaxed));
        }
        Share { tasks, panic: outcome.err() }
    }

    /// A worker's part in whatever job is open; `others` is called first where there is work for more.
    pub(super) fn help(&self, others: impl FnOnce()) {
        let Some(ticket) = self.take() else { return };
        if self.is_open() {
            others();
        }
        // SAFETY: this thread holds a ticket: the task was written before, and stays until the ticket is handed in.
        let task = unsafe { *self.open.0.task.get() };
        let Share { tasks, panic } = self.work_off(ticket, task);
        let panicked = panic.map_or(0, |panic| {
            self.panic().get_or_insert(panic);
            PANICKED
        });
        self.finished.0.fetch_add(tasks + panicked, Ordering::SeqCst);
        if self.rare.0.waiting.load(Ordering::SeqCst) {
            let _guard = self.panic();
            self.rare.0.done.notify_one();
        }
    }

    /// Waits until all `tasks` are done but those of the caller's own `share`, and gives a panic if there was any.
    pub(super) fn finish(&self, tasks: usize, share: Share) -> Option<Panic> {
        let theirs = tasks as u64 - share.tasks;
        let all = || self.finished.0.load(Ordering::SeqCst) % PANICKED == theirs;
        if !spin_until(all) {
            let mut guard = self.panic();
            self.rare.0.waiting.store(true, Ordering::SeqCst);
            while !all() {
                guard = self.rare.0.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.rare.0.waiting.store(false, Ordering::Relaxed);
        }
        let panicked = self.finished.0.load(Ordering::Relaxed) >= PANICKED;
        let panic = if panicked { self.panic().take() } else { None };
        share.panic.or(panic)
    }

    fn panic(&self) -> MutexGuard<'_, Option<Panic>> {
        // No code that can panic runs under the lock.
        self.rare.0.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tickets that a word leaves to take.
const fn left(word: u64) -> u64 {
    (word >> 32).saturating_sub(word & 0xffff_ffff)
}
