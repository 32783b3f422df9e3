//! A pool of threads that share out numbered tasks, without allocating and without burning when idle.

use std::any::Any;
use std::cell::UnsafeCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Isa;

/// How long a thread without work looks for more before it sleeps: the gap between two operations of one layer, and
/// short, since others use this machine too.
const SPIN: Duration = Duration::from_micros(40);

/// Set in [`Shared::state`] once no thread may join the job any more.
const CLOSED: u64 = 1 << 31;
/// The part of [`Shared::state`] that counts the threads that joined.
const JOINED: u64 = CLOSED - 1;
/// One job further.
const EPOCH: u64 = 1 << 32;

/// Threads that run numbered tasks together with the caller, and the instruction set that kernels use on them.
///
/// Which thread runs which task is left open; results do not depend on it.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs: a second caller, or a task that calls `run`, finds it taken and works alone.
    busy: Mutex<()>,
    isa: Isa,
}

struct Shared {
    /// Epoch, [`CLOSED`] and the count of threads that joined the job of this epoch, in one word.
    state: AtomicU64,
    /// The job of this epoch; written only while no thread has joined it.
    job: UnsafeCell<Option<Job>>,
    next: AtomicUsize,
    finished: AtomicUsize,
    shutdown: AtomicBool,
    sleepers: AtomicUsize,
    waiting: AtomicBool,
    lock: Mutex<Option<Box<dyn Any + Send>>>,
    work: Condvar,
    done: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    /// The caller's closure, its lifetime forgotten: `run` does not return while a thread can still use it.
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: `job` is the only part that is not `Sync`. It is written by the thread that holds `Pool::busy` while the state
// is closed and every thread that joined has finished; it is read by threads that joined, after the state that publishes it.
unsafe impl Sync for Shared {}
// SAFETY: the closure behind `Job::task` is `Sync`, so other threads may call it.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller of [`run`](Self::run) counted in (so `threads - 1` are started; 0 is 1).
    ///
    /// # Errors
    /// Where the system starts no more threads.
    pub fn new(threads: usize, isa: Isa) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(CLOSED),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            shutdown: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            lock: Mutex::new(None),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let mut pool = Self { shared, workers: Vec::new(), busy: Mutex::new(()), isa };
        for number in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = thread::Builder::new().name(format!("kernels-{number}"));
            // On failure the drop of `pool` ends the threads that were started.
            pool.workers.push(builder.spawn(move || shared.serve())?);
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

    /// Runs `task(0)` to `task(tasks - 1)`, each once, on all threads, and returns when all are done.
    ///
    /// A caller that comes while another job runs (from another thread, or from inside a task) runs its tasks alone.
    ///
    /// # Panics
    /// Where a task panics: the tasks not yet begun are dropped, and the panic goes on here.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let free = if tasks > 1 && !self.workers.is_empty() { self.busy.try_lock().ok() } else { None };
        let Some(busy) = free else {
            return (0..tasks).for_each(task);
        };
        let shared = &*self.shared;
        shared.publish(tasks, task);
        let mine = catch_unwind(AssertUnwindSafe(|| shared.work_off(task, tasks)));
        if mine.is_err() {
            shared.next.store(tasks, Ordering::Relaxed);
        }
        shared.close();
        let theirs = shared.guard().take();
        if let Some(panic) = mine.err().or(theirs) {
            drop(busy);
            resume_unwind(panic);
        }
    }

    /// Runs `task(i, piece)` for the `i`-th piece of `piece` numbers of `out` (the last may be shorter).
    pub(crate) fn run_pieces<T: Send>(&self, out: &mut [T], piece: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
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
        {
            let _guard = self.shared.guard();
            self.shared.work.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks, so it ends well.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn guard(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        // No code that can panic runs under the lock.
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a job: from here on threads may join.
    fn publish(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. `close` waits for every thread that joined before `run` returns.
        let task: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        // SAFETY: the last job is closed and its threads have finished, so nobody reads.
        unsafe { *self.job.get() = Some(Job { task, tasks }) };
        self.next.store(0, Ordering::Relaxed);
        self.finished.store(0, Ordering::Relaxed);
        let epoch = self.state.load(Ordering::Relaxed) & !(EPOCH - 1);
        // SeqCst here and at the sleepers' count: either a sleeper sees the job, or we see the sleeper.
        self.state.store(epoch.wrapping_add(EPOCH), Ordering::SeqCst);
        let sleepers = self.sleepers.load(Ordering::SeqCst);
        if sleepers > 0 {
            let _guard = self.guard();
            for _ in 0..sleepers.min(tasks - 1) {
                self.work.notify_one();
            }
        }
    }

    fn work_off(&self, task: &(dyn Fn(usize) + Sync), tasks: usize) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                return;
            }
            task(i);
        }
    }

    /// Lets nobody join any more and waits for those who did. Threads that the system has not run yet are not waited
    /// for: on a crowded machine they may come much later.
    fn close(&self) {
        let joined = (self.state.fetch_or(CLOSED, Ordering::AcqRel) & JOINED) as usize;
        let all_finished = || self.finished.load(Ordering::SeqCst) == joined;
        if spin_until(all_finished) {
            return;
        }
        let mut guard = self.guard();
        self.waiting.store(true, Ordering::SeqCst);
        while !all_finished() {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// A worker's life: look for a job, join it, work it off, say so.
    fn serve(&self) {
        let mut last = 0;
        while let Some(epoch) = self.next_job(last) {
            last = epoch;
            if !self.join(epoch) {
                continue;
            }
            // SAFETY: this thread joined, so the job stays until it has finished; the join's acquire saw it written.
            let job = unsafe { (*self.job.get()).expect("a job is written before it is opened") };
            // SAFETY: as above: the caller is still inside `run`, so its closure lives.
            let task = unsafe { &*job.task };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work_off(task, job.tasks))) {
                self.next.store(job.tasks, Ordering::Relaxed);
                self.guard().get_or_insert(panic);
            }
            self.finished.fetch_add(1, Ordering::SeqCst);
            if self.waiting.load(Ordering::SeqCst) {
                let _guard = self.guard();
                self.done.notify_one();
            }
        }
    }

    /// The epoch of an open job that this thread has not had; `None` at the end.
    fn next_job(&self, last: u64) -> Option<u64> {
        let open = |state: u64| (state & CLOSED == 0 && state & !(EPOCH - 1) != last).then_some(state & !(EPOCH - 1));
        let news = || open(self.state.load(Ordering::SeqCst)).is_some() || self.shutdown.load(Ordering::SeqCst);
        if !spin_until(news) {
            let mut guard = self.guard();
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while !news() {
                guard = self.work.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
        if self.shutdown.load(Ordering::SeqCst) {
            return None;
        }
        // It may be closed again by now: then it is worth another look.
        Some(open(self.state.load(Ordering::SeqCst)).unwrap_or(last))
    }

    /// Counts this thread in, unless the job is closed or another one by now.
    fn join(&self, epoch: u64) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & CLOSED == 0 && state & !(EPOCH - 1) == epoch {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }
}

/// Looks for `SPIN` whether `done`, and says whether it came.
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
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(threads, Isa::PORTABLE).unwrap()
    }

    #[test]
    fn each_task_runs_once() {
        for threads in [0, 1, 2, 5] {
            let pool = pool(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for round in 0..300 {
                let tasks = round % 37;
                let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                if round % 100 == 0 {
                    // Long enough for the workers to sleep.
                    thread::sleep(SPIN * 5);
                }
            }
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = pool(3);
        for _ in 0..20 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, &|i| assert!(i != 20, "task twenty"));
            }));
            let message = *outcome.unwrap_err().downcast::<&str>().unwrap();
            assert_eq!(message, "task twenty");
            let sum = AtomicUsize::new(0);
            pool.run(10, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn a_job_inside_a_job_and_two_callers_at_once_do_not_wait_for_each_other() {
        let pool = pool(3);
        let count = AtomicUsize::new(0);
        let add = |_: usize| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| pool.run(4, &|_| pool.run(5, &add)));
            }
        });
        assert_eq!(count.into_inner(), 40);
    }
}
