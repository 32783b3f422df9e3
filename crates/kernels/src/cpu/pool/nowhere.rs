//! Where workers run on systems that are not asked: wherever they are put.

pub(super) struct Places;

impl Places {
    pub(super) fn new(_: usize) -> Self {
        Self
    }

    #[allow(clippy::unused_self)]
    pub(super) fn take(&self, _: usize) {}

    #[allow(clippy::unused_self)]
    pub(super) fn leave_to_caller(&self) {}
}
