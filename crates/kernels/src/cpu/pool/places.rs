//! Which cores workers may run on: all that the caller may, but the caller's own.
//!
//! Owns the workers' affinities. Must never know what they do, or whether they sleep.
//!
//! The system often wakes a worker on the core of the thread that wakes it, when the others were busy for a moment: with the end of a
//! read, say. The worker would wait there until the caller sleeps or the system looks for imbalance, and one core computes where two could.
//! So a caller that sees itself on another core than last time takes that core out of what its workers may run on. One that waits there is moved
//! by the same call.
//!
//! More than that is left to the system, which knows what else runs: a worker held to one core would wait behind another process
//! there while a core beside it is free (the module [`super`] has figures).

use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Pid;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

pub(super) struct Places {
    /// The first processor of each processor's core: hyperthreads of one core have the same.
    cores: Vec<usize>,
    workers: Vec<OnceLock<Pid>>,
    /// The processor that a caller was last seen on.
    caller: AtomicUsize,
}

impl Places {
    pub(super) fn new(workers: usize) -> Self {
        let online = sched_getaffinity(None)
            .map_or(0, |set| (0..CpuSet::MAX_CPU).filter(|&p| set.is_set(p)).max().map_or(0, |p| p + 1));
        let cores = (0..online).map(|processor| first_of_core(processor).unwrap_or(processor)).collect();
        Self { cores, workers: (0..workers).map(|_| OnceLock::new()).collect(), caller: AtomicUsize::new(usize::MAX) }
    }

    /// Makes this thread the worker of that number.
    pub(super) fn take(&self, worker: usize) {
        self.workers[worker].get_or_init(gettid);
    }

    /// Keeps workers off the core that the calling thread is on.
    pub(super) fn leave_to_caller(&self) {
        let here = sched_getcpu();
        // A thread that has only been started will be asked at a later run.
        if self.caller.load(Ordering::Relaxed) == here || !self.workers.iter().all(|worker| worker.get().is_some()) {
            return;
        }
        self.caller.store(here, Ordering::Relaxed);
        // Asked each time, as it may change while this process runs; the caller's own is never changed here.
        let Some(places) = sched_getaffinity(None).ok().and_then(|allowed| self.beside(here, allowed)) else { return };
        for worker in &self.workers {
            // Where the system refuses, the worker stays where it may be.
            let _ = sched_setaffinity(worker.get().copied(), &places);
        }
    }

    /// Where workers belong when their caller is on the processor `here` and may run on those `allowed`; `None` for where they are.
    ///
    /// With more workers than cores beside the caller's they may run wherever the caller may, so that no core has two while another
    /// has none. A caller that is held to one core says nothing about its workers.
    fn beside(&self, here: usize, allowed: CpuSet) -> Option<CpuSet> {
        let core = |processor: usize| self.cores.get(processor).copied().unwrap_or(processor);
        let (mut rest, mut cores) = (CpuSet::new(), CpuSet::new());
        for processor in (0..CpuSet::MAX_CPU).filter(|&p| allowed.is_set(p) && core(p) != core(here)) {
            rest.set(processor);
            cores.set(core(processor));
        }
        match cores.count() as usize {
            0 => None,
            cores if cores < self.workers.len() => Some(allowed),
            _ => Some(rest),
        }
    }
}

/// The first processor of the core that `processor` belongs to; `None` where the system does not tell.
fn first_of_core(processor: usize) -> Option<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list");
    // "0,8", "0-1" or "0".
    let siblings = fs::read_to_string(path).ok()?;
    siblings.split([',', '-', '\n']).next()?.parse().ok().filter(|&first| first <= processor)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use super::*;
    use crate::cpu::{Isa, Pool};

    fn set(processors: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        for processor in processors {
            set.set(*processor);
        }
        set
    }

    /// Where a pool's workers may run, told by themselves: as many tasks as threads, each waiting for all.
    fn places_of_workers(pool: &Pool) -> Vec<CpuSet> {
        let caller = gettid();
        let (begun, places) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        pool.run(pool.threads(), &|_| {
            begun.fetch_add(1, Ordering::SeqCst);
            while begun.load(Ordering::SeqCst) < pool.threads() {
                thread::yield_now();
            }
            if gettid() != caller {
                places.lock().unwrap().push(sched_getaffinity(None).unwrap());
            }
        });
        places.into_inner().unwrap()
    }

    #[test]
    fn a_caller_that_moves_has_its_core_to_itself() {
        let allowed = sched_getaffinity(None).unwrap();
        let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&p| allowed.is_set(p)).collect();
        let pool = Pool::new(2, Isa::PORTABLE).unwrap();
        // Once, so that the worker is there.
        assert_eq!(places_of_workers(&pool).len(), 1);
        for here in processors.iter().copied().cycle().take(20) {
            // It may go elsewhere after that, but has to be taken off by the system for it.
            sched_setaffinity(None, &set(&[here])).unwrap();
            sched_setaffinity(None, &allowed).unwrap();
            let found = places_of_workers(&pool);
            let seen = pool.shared.places.caller.load(Ordering::Relaxed);
            let expected = pool.shared.places.beside(seen, allowed).unwrap_or(allowed);
            assert_eq!(found, [expected], "caller put on {here}, seen on {seen}");
        }
        // A caller is left where it was, so that threads that it starts are.
        assert_eq!(sched_getaffinity(None).unwrap(), allowed);
    }

    #[test]
    #[allow(clippy::type_complexity)] // A table.
    fn workers_belong_beside_their_caller() {
        // Cores as `first_of_core` gives them; workers; the caller's processor; where it may run; where workers may.
        let two = vec![0, 1];
        let four_of_two_threads = vec![0, 1, 2, 3, 0, 1, 2, 3];
        let none: Vec<usize> = vec![];
        let table: [(&[usize], usize, usize, &[usize], Option<&[usize]>); 11] = [
            (&two, 1, 0, &[0, 1], Some(&[1])),
            (&two, 1, 1, &[0, 1], Some(&[0])),
            // More workers than cores.
            (&two, 2, 1, &[0, 1], Some(&[0, 1])),
            (&two, 3, 1, &[0, 1], Some(&[0, 1])),
            // A caller held to a core, and one that was just taken off its core.
            (&two, 1, 1, &[1], None),
            (&two, 1, 1, &[0], Some(&[0])),
            // Hyperthreads: the caller's core has two processors.
            (&four_of_two_threads, 3, 5, &[0, 1, 2, 3, 4, 5, 6, 7], Some(&[0, 2, 3, 4, 6, 7])),
            (&four_of_two_threads, 1, 0, &[0, 4, 2], Some(&[2])),
            (&four_of_two_threads, 2, 0, &[0, 4, 2, 6], Some(&[0, 4, 2, 6])),
            // A system that does not tell.
            (&none, 2, 7, &[3, 5, 7], Some(&[3, 5])),
            (&none, 3, 7, &[3, 5, 7], Some(&[3, 5, 7])),
        ];
        for (cores, workers, here, allowed, expected) in table {
            let places = Places { cores: cores.into(), ..Places::new(workers) };
            let found = places.beside(here, set(allowed));
            assert_eq!(found, expected.map(set), "{workers} workers, caller on {here} of {allowed:?}");
        }
    }
}
