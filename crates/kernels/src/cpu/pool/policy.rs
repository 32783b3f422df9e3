//! How the system schedules workers.
//!
//! Owns the one call for it. Must never know what workers do.

/// Asks that this thread, when it wakes up, stops no other that is running: it takes a free core or waits its turn.
///
/// Workers wake up often. Where two processes have more threads than there are cores, each awakening would stop a
/// thread of the other process in the middle of a task, for which all of that process then waits. In tokens per second
/// of the bench `pool`, two processes of 16 threads on 16 cores reach 212 and 144 together without this call
/// (two measurements), 310 and 225 with it; alone, one reaches 226 and 197. Two of 2 threads on 2 cores reach
/// 66 and 64, and with it 68 and 78; alone, one reaches 60 and 76.
///
/// Linux calls it `SCHED_BATCH`: <https://man7.org/linux/man-pages/man7/sched.7.html>. Any process may ask for it;
/// where the system refuses, nothing changes. The caller of `Pool::run` is left alone: threads that it starts would
/// inherit it.
#[cfg(all(target_os = "linux", not(miri)))]
pub(super) fn yield_to_running_threads() {
    /// `sched_param` of `sched.h`, as glibc and musl have it at least.
    #[repr(C)]
    struct Parameters {
        priority: i32,
        reserved: [u64; 5],
    }
    const SCHED_BATCH: i32 = 3;
    // SAFETY: it reads `sched_param`, whose first field is the priority, and changes the scheduling of a thread alone.
    unsafe extern "C" {
        safe fn sched_setscheduler(thread: i32, policy: i32, parameters: &Parameters) -> i32;
    }
    // 0 is the thread that calls; the policy has no priorities but 0.
    sched_setscheduler(0, SCHED_BATCH, &Parameters { priority: 0, reserved: [0; 5] });
}

#[cfg(any(not(target_os = "linux"), miri))]
pub(super) fn yield_to_running_threads() {}
