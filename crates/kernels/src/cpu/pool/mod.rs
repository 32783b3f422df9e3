//! A pool of threads that share out numbered tasks: no locks or allocations while work flows, asleep when none does.
//!
//! # How a job runs
//! A job's tasks are handed out as tickets, by one atomic word that holds how many there are and which is next
//! ([`board`]). The caller keeps ticket 0 and publishes the rest; whoever gets a ticket runs its task and asks for
//! another, so that a slow core takes few and a fast one many. The caller ends by waiting for those whose tickets are
//! out. Nobody else is waited for: a thread that the system has not run yet holds no ticket.
//!
//! Workers look for tickets for [`SPIN`], then sleep. The caller wakes two, and each that finds a ticket wakes two
//! more ([`seats`]): on 16 cores a caller that woke all 15 itself spent 25 µs on it, and now spends 3.
//!
//! # Why no worker is pinned to a core
//! It was measured, on 16 cores of Sapphire Rapids that have no second hyperthread, in tokens per second of the example
//! bench `pool`. A process alone is as fast pinned (16 threads: 223 and 246) as not (217 and 273). But two processes of
//! 8 threads, which leave each other alone otherwise (321 and 295 together), fight over the same 8 cores when
//! pinned (158 and 150). And threads inherit what their parent may run on: a caller that is pinned takes the reader of
//! a drive with it. So every thread runs where the process may, and the system chooses: tasks go to who has time. To keep workers off their
//! caller's core alone was tried, too, and gained nothing.
//!
//! What does keep two processes apart is that a worker which wakes up takes no core from a running thread ([`policy`]),
//! and that it looks for more work for a while before it sleeps: with 10 µs instead of 40, two processes of 16 threads
//! on 16 cores reached 153 together instead of 203, and with the policy 40 and 100 µs gave the same.

mod board;
mod policy;
mod seats;

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Isa;
use board::{Board, TASKS_MAX};
use seats::Seats;

/// How long a thread without work looks for more before it sleeps: longer than the gaps between the operations of a
/// layer, and short, since others use this machine too. To wake a thread costs the waker 2 to 12 µs on virtual
/// machines, and the thread comes some 20 to 50 µs late.
const SPIN: Duration = Duration::from_micros(100);

/// Sleepers that the caller, and then each thread that found work, wakes.
const WAKES: usize = 2;

/// Threads that run numbered tasks together with the caller, and the instruction set that kernels use on them.
///
/// Which thread runs which task is left open; results do not depend on it.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    isa: Isa,
}

struct Shared {
    board: Board,
    seats: Seats,
    /// Raised while a job runs: a second caller, or a task that calls `run`, finds it so and works alone.
    busy: Line<AtomicBool>,
    /// How many ask that no worker falls asleep.
    awake: AtomicUsize,
    shutdown: AtomicBool,
}

/// Keeps a pool's workers from falling asleep until it is dropped.
#[must_use]
pub struct Awake(Arc<Shared>);

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.awake.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Two cache lines of its own, since processors fetch lines in pairs: what is written often disturbs nothing else.
#[derive(Default)]
#[repr(align(128))]
struct Line<T>(T);

impl Pool {
    /// A pool of `threads` threads, the caller of [`run`](Self::run) counted in (so `threads - 1` are started; 0 is 1).
    ///
    /// # Errors
    /// Where the system starts no more threads.
    pub fn new(threads: usize, isa: Isa) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            board: Board::new(),
            seats: Seats::new(threads.saturating_sub(1)),
            busy: Line::default(),
            awake: AtomicUsize::new(0),
            shutdown: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::new(), isa };
        for number in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = thread::Builder::new().name(format!("kernels-{number}"));
            // On failure the drop of `pool` ends the threads that were started.
            pool.workers.push(builder.spawn(move || shared.serve(number - 1))?);
        }
        Ok(pool)
    }

    /// Threads that work, the caller counted in.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction set that kernels use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Keeps workers that wake up from now on looking for work, however long there is none: for work that comes in short pieces with a GPU's
    /// between them. Sleepers are not woken for it.
    pub fn stay_awake(&self) -> Awake {
        self.shared.awake.fetch_add(1, Ordering::Relaxed);
        Awake(Arc::clone(&self.shared))
    }

    /// Runs `task(0)` to `task(tasks - 1)`, each once, on all threads, and returns when all are done.
    ///
    /// A caller that comes while another job runs (from another thread, or from inside a task) runs its tasks alone.
    ///
    /// # Panics
    /// Where a task panics: the tasks not yet begun are dropped, and the panic goes on here.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let Shared { board, seats, busy, .. } = &*self.shared;
        let alone = self.workers.is_empty() || !(2..=TASKS_MAX).contains(&tasks);
        // Acquire and Release: what one caller did to the board lies before what the next one does.
        if alone || busy.0.swap(true, Ordering::Acquire) {
            return (0..tasks).for_each(task);
        }
        // SAFETY: `busy` makes this thread the only caller until `finish`, which every job gets to, since neither
        // `wake` nor `work_off` panics. `task` is borrowed for longer than that.
        let first = unsafe { board.publish(tasks, task) };
        seats.wake(WAKES.min(tasks - 1));
        let panic = board.finish(tasks, board.work_off(first, task));
        busy.0.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Runs `task(i, piece)` for the `i`-th piece of `piece` numbers of `out` (the last may be shorter), as [`run`](Self::run) does.
    ///
    /// # Panics
    /// Where a piece is to have no numbers, and where a task panics.
    pub fn run_pieces<T: Send>(&self, out: &mut [T], piece: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
        let whole = super::outputs::Scattered::new(out);
        let length = whole.len();
        self.run(length.div_ceil(piece), &|i| {
            let start = i * piece;
            // SAFETY: pieces do not overlap, and each task has a piece of its own.
            task(i, unsafe { whole.slice(start, piece.min(length - start)) });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        self.shared.seats.wake(usize::MAX);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks, so it ends well.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life: look for a ticket, sleep where there is none, work as long as there are some.
    fn serve(&self, seat: usize) {
        policy::yield_to_running_threads();
        self.seats.take(seat);
        let news = || self.board.is_open() || self.shutdown.load(Ordering::SeqCst);
        loop {
            if !spin_until(news) {
                if self.awake.load(Ordering::Relaxed) > 0 {
                    continue;
                }
                self.seats.sleep(seat, news);
            }
            if self.shutdown.load(Ordering::SeqCst) {
                return;
            }
            self.board.help(|| self.seats.wake(WAKES));
        }
    }
}

/// Looks for [`SPIN`] whether `done`, and says whether it came.
fn spin_until(done: impl Fn() -> bool) -> bool {
    let mut since = None;
    loop {
        for _ in 0..32 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if since.get_or_insert_with(Instant::now).elapsed() > SPIN {
            return done();
        }
    }
}

#[cfg(test)]
mod tests;
