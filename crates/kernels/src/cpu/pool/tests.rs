use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize};

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

#[test]
fn several_threads_work_where_there_is_work_for_them() {
    let pool = pool(4);
    // Each waits until another thread has begun a task: with one thread alone this would not end.
    let begun = AtomicUsize::new(0);
    pool.run(2, &|_| {
        begun.fetch_add(1, Ordering::SeqCst);
        while begun.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
    });
}

#[test]
fn workers_that_stay_awake_do_not_fall_asleep() {
    let pool = pool(3);
    let asleep = || pool.shared.seats.sleepers();
    let awake = pool.stay_awake();
    // Some may have slept before: work wakes them.
    while asleep() > 0 {
        pool.run(3, &|_| thread::sleep(SPIN));
    }
    thread::sleep(SPIN * 20);
    assert_eq!(asleep(), 0);
    drop(awake);
    while asleep() < 2 {
        thread::yield_now();
    }
}

/// Numbers without order: a linear congruence.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Works for some time that has nothing to do with the clock.
fn work(steps: u64) {
    (0..steps).for_each(|step| {
        std::hint::black_box(step);
    });
}

/// Rounds of any number of tasks and any length, with gaps in which workers go on looking, fall asleep or sleep, with
/// panics and with jobs inside of jobs. Results are written without atomics: a task that ran twice, late or unseen by
/// the caller would show.
#[test]
fn many_rounds_with_gaps_panics_and_jobs_inside() {
    let end = Instant::now() + Duration::from_millis(1200);
    let mut dice = Dice(1);
    while Instant::now() < end {
        let pool = pool(1 + dice.below(8) as usize);
        for _ in 0..200 {
            let (tasks, steps) = (dice.below(60), dice.below(500));
            let fails = (dice.below(12) == 0 && tasks > 0).then(|| dice.below(tasks.max(1)) as usize);
            let inner = if dice.below(12) == 0 { 3 } else { 1 };
            let mut results = vec![0; tasks as usize * inner];
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run_pieces(&mut results, inner, &|i, results| {
                    work(steps);
                    if fails == Some(i) {
                        resume_unwind(Box::new(i));
                    }
                    pool.run_pieces(results, 1, &|j, result| result[0] += 1 + i * inner + j);
                });
            }));
            match fails {
                None => assert!(outcome.is_ok() && results.iter().enumerate().all(|(i, r)| *r == i + 1)),
                Some(task) => {
                    assert_eq!(*outcome.unwrap_err().downcast::<usize>().unwrap(), task);
                    assert!(results.iter().enumerate().all(|(i, r)| *r == 0 || *r == i + 1));
                }
            }
            match dice.below(40) {
                0 => thread::sleep(SPIN * 2),
                1..10 => work(dice.below(100_000)),
                _ => {}
            }
        }
    }
}
