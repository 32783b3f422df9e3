//! The driver library: whether it is there, and results as errors.

use std::ffi::CStr;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUresult};

use super::CudaError;

/// The oldest driver that has every function called here (`cuEventElapsedTime_v2` came last).
const NEEDED: (i32, i32) = (12, 8);

/// Loads and starts the driver, once for the process.
pub(super) fn init() -> Result<(), CudaError> {
    static STARTED: OnceLock<Result<(), CudaError>> = OnceLock::new();
    STARTED.get_or_init(start).clone()
}

fn start() -> Result<(), CudaError> {
    // SAFETY: loading the driver's library runs its initializers, which is what it is for.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver { reason: "libcuda.so.1 is not found".into() });
    }
    let mut version = 0;
    // SAFETY: `version` is writable; this call needs no initialization.
    let result = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    let found = (version / 1000, version % 1000 / 10);
    if result == CUresult::CUDA_SUCCESS && found < NEEDED {
        let text = |(major, minor): (i32, i32)| format!("{major}.{minor}");
        return Err(CudaError::OldDriver { found: text(found), needed: text(NEEDED) });
    }
    // SAFETY: no arguments but flags, which must be 0.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => Ok(()),
        error => Err(CudaError::NoDriver { reason: name_of(error) }),
    }
}

/// A result of the driver as an error of card `ordinal`.
pub(super) fn check(ordinal: u32, doing: &'static str, result: CUresult) -> Result<(), CudaError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        error if is_fatal(error) => Err(CudaError::Lost { ordinal, doing, reason: name_of(error) }),
        error => Err(CudaError::Call { ordinal, doing, reason: name_of(error) }),
    }
}

/// Whether a context that returned this returns it for ever.
fn is_fatal(error: CUresult) -> bool {
    use CUresult as C;
    matches!(
        error,
        C::CUDA_ERROR_ILLEGAL_ADDRESS
            | C::CUDA_ERROR_LAUNCH_TIMEOUT
            | C::CUDA_ERROR_LAUNCH_FAILED
            | C::CUDA_ERROR_HARDWARE_STACK_ERROR
            | C::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | C::CUDA_ERROR_MISALIGNED_ADDRESS
            | C::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | C::CUDA_ERROR_INVALID_PC
            | C::CUDA_ERROR_ASSERT
            | C::CUDA_ERROR_ECC_UNCORRECTABLE
            | C::CUDA_ERROR_DEVICE_UNAVAILABLE
            | C::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | C::CUDA_ERROR_CONTAINED
            | C::CUDA_ERROR_EXTERNAL_DEVICE
            | C::CUDA_ERROR_UNKNOWN
    )
}

/// The driver's name of an error.
pub(super) fn name_of(error: CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: `text` is writable; on success it points to a string of the driver's that lives as long as the process.
    unsafe {
        if sys::cuGetErrorName(error, &raw mut text) == CUresult::CUDA_SUCCESS && !text.is_null() {
            return CStr::from_ptr(text).to_string_lossy().into_owned();
        }
    }
    format!("error {}", error as u32)
}
