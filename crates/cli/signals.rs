//! Ctrl-C and SIGTERM: the first stops what is being generated, the second ends the program.
//!
//! Owns the signal handlers. Must never print.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::Exit;

/// The two signals' handlers, installed.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    /// True where nothing can be stopped gently, or was already asked to stop: the next signal ends the program.
    last: Arc<AtomicBool>,
    /// Raised by a signal, read by whoever works.
    stop: Option<Arc<AtomicBool>>,
}

/// While this lives, a first signal only raises the stop flag.
pub(crate) struct Gentle<'a>(&'a Signals);

impl Signals {
    /// Installs handlers. Outside of [`Self::gently`] they end the program with exit code 130.
    pub(crate) fn install() -> std::io::Result<Self> {
        let last = Arc::new(AtomicBool::new(true));
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in this order: the first looks at the flag that the second raises for next time.
            flag::register_conditional_shutdown(signal, Exit::Interrupted as i32, Arc::clone(&last))?;
            flag::register(signal, Arc::clone(&last))?;
        }
        Ok(Self { last, stop: None })
    }

    /// Lets signals raise this flag, by which work can be stopped gently.
    pub(crate) fn raise(&mut self, stop: Arc<AtomicBool>) -> std::io::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&stop))?;
        }
        self.stop = Some(stop);
        Ok(())
    }

    /// Lets a first signal stop gently until the answer is dropped; forgets an earlier one.
    pub(crate) fn gently(&self) -> Gentle<'_> {
        if let Some(stop) = &self.stop {
            stop.store(false, Ordering::SeqCst);
        }
        self.last.store(false, Ordering::SeqCst);
        Gentle(self)
    }
}

impl Drop for Gentle<'_> {
    fn drop(&mut self) {
        self.0.last.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_signal_is_gentle_and_forgotten_by_the_next_work() {
        let mut signals = Signals::install().expect("handlers");
        let stop = Arc::new(AtomicBool::new(false));
        signals.raise(Arc::clone(&stop)).expect("handlers");
        assert!(signals.last.load(Ordering::SeqCst), "with nothing under way, a signal ends the program");
        {
            let _gentle = signals.gently();
            signal_hook::low_level::raise(SIGINT).expect("a signal");
            assert!(stop.load(Ordering::SeqCst));
            assert!(signals.last.load(Ordering::SeqCst), "a second one would end the program");
        }
        let _gentle = signals.gently();
        assert!(!stop.load(Ordering::SeqCst));
    }
}
