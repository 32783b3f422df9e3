//! One question to NVIDIA's management library: how many bytes of a card are taken, by whomever. The driver answers it only to a process
//! that has taken some already.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::null_mut;

use libloading::{Library, Symbol};
use plan::Bytes;

use super::GpuInfo;

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

impl GpuInfo {
    /// Bytes of its memory that no program has taken; all of them where NVIDIA's management library does not tell. Takes none itself.
    #[must_use]
    pub fn memory_free(&self) -> Bytes {
        used(&self.pci).map_or(self.memory, |used| self.memory.saturating_sub(used))
    }
}

/// Bytes of the card at `pci` that are taken, or `None` where the library is missing or does not tell.
pub(super) fn used(pci: &str) -> Option<Bytes> {
    const SUCCESS: c_int = 0;
    let pci = CString::new(pci).ok()?;
    // SAFETY: loading NVIDIA's library runs its initializers only. Each symbol has the type that NVIDIA's documentation gives it; every
    // pointer leads to what the call expects for as long as it runs.
    unsafe {
        let library = Library::new("libnvidia-ml.so.1").ok()?;
        let start: Symbol<unsafe extern "C" fn() -> c_int> = library.get(b"nvmlInit_v2\0").ok()?;
        let stop: Symbol<unsafe extern "C" fn() -> c_int> = library.get(b"nvmlShutdown\0").ok()?;
        let find: Symbol<unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int> =
            library.get(b"nvmlDeviceGetHandleByPciBusId_v2\0").ok()?;
        let ask: Symbol<unsafe extern "C" fn(*mut c_void, *mut Memory) -> c_int> =
            library.get(b"nvmlDeviceGetMemoryInfo\0").ok()?;
        if start() != SUCCESS {
            return None;
        }
        let (mut device, mut memory) = (null_mut(), Memory::default());
        let told = find(pci.as_ptr(), &raw mut device) == SUCCESS && ask(device, &raw mut memory) == SUCCESS;
        stop();
        told.then_some(Bytes(memory.used))
    }
}
