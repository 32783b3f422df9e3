//! Room on the stack of which a task uses, and touches, as much as it needs.

use std::mem::MaybeUninit;
use std::slice;

/// The first `count` of `room`, each `with`.
#[inline(always)]
pub(super) fn filled<T: Copy>(room: &mut [MaybeUninit<T>], count: usize, with: T) -> &mut [T] {
    let room = &mut room[..count];
    for place in &mut *room {
        place.write(with);
    }
    // SAFETY: all of them were just written, and a `MaybeUninit` lies in memory as what it holds.
    unsafe { slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len()) }
}
