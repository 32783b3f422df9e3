//! The compiled kernels, embedded, and their functions by name.

use std::collections::HashMap;
use std::ffi::CStr;
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUmodule, CUresult};

use super::CudaError;
use super::driver::{check, name_of};
use super::launch::Kernel;

/// Bytes at the alignment that a fatbin's header has.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// Each `.cu` file's name and fatbin, written by the build script.
static MODULES: &[(&str, &Aligned<[u8]>)] = &include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Loads every module into the current context and every function to the card, so that nothing is loaded, compiled or allocated later.
///
/// # Safety
/// A context is current, and lives longer than the kernels are used.
pub(super) unsafe fn load(ordinal: u32) -> Result<HashMap<String, Kernel>, CudaError> {
    let mut kernels = HashMap::new();
    // SAFETY: the caller's promise.
    let most_shared = unsafe { most_shared(ordinal)? };
    for (_, image) in MODULES {
        let mut module: CUmodule = null_mut();
        // SAFETY: a context is current; the image is a whole fatbin, whose length its header says.
        let result = unsafe { sys::cuModuleLoadData(&raw mut module, image.0.as_ptr().cast()) };
        if let CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_INVALID_IMAGE = result
        {
            let needed = format!("the version whose nvcc compiled it ({})", name_of(result));
            return Err(CudaError::OldDriver { found: "an older version".into(), needed });
        }
        check(ordinal, "loading kernels", result)?;
        let mut count = 0;
        // SAFETY: the module was just loaded.
        check(ordinal, "counting kernels", unsafe { sys::cuModuleGetFunctionCount(&raw mut count, module) })?;
        let mut functions = vec![null_mut(); count as usize];
        // SAFETY: there is room for `count` handles.
        let result = unsafe { sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module) };
        check(ordinal, "listing kernels", result)?;
        for function in functions {
            let mut name = std::ptr::null();
            // SAFETY: a function of a loaded module; its name lives as long as the module.
            let name = unsafe {
                check(ordinal, "naming a kernel", sys::cuFuncGetName(&raw mut name, function))?;
                check(ordinal, "loading a kernel", sys::cuFuncLoad(function))?;
                allow_shared(ordinal, function, most_shared)?;
                CStr::from_ptr(name)
            };
            kernels.insert(name.to_string_lossy().into_owned(), Kernel { function });
        }
    }
    Ok(kernels)
}

/// Bytes of shared memory that a block may have where its kernel asks for more than the usual 48 KiB.
///
/// # Safety
/// A context is current.
unsafe fn most_shared(ordinal: u32) -> Result<i32, CudaError> {
    let (mut device, mut bytes) = (0, 0);
    let most = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    // SAFETY: a context is current and both are writable.
    unsafe {
        check(ordinal, "asking for its number", sys::cuCtxGetDevice(&raw mut device))?;
        check(ordinal, "asking for shared memory", sys::cuDeviceGetAttribute(&raw mut bytes, most, device))?;
    }
    Ok(bytes)
}

/// Lets launches of `function` ask for all shared memory that it does not have already.
///
/// # Safety
/// A function of a loaded module.
unsafe fn allow_shared(ordinal: u32, function: sys::CUfunction, most: i32) -> Result<(), CudaError> {
    use sys::CUfunction_attribute as A;
    let mut own = 0;
    // SAFETY: the caller's promise, and `own` is writable.
    unsafe {
        let result = sys::cuFuncGetAttribute(&raw mut own, A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function);
        check(ordinal, "asking for a kernel's shared memory", result)?;
        let room = A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        check(ordinal, "allowing shared memory", sys::cuFuncSetAttribute(function, room, most - own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind (1 PTX, 2 machine code) and architecture of each entry of a fatbin.
    ///
    /// A header of 16 bytes (magic number, version, header size, bytes behind it), then entries that begin with kind (2 bytes), version
    /// (2), header size (4) and bytes behind it (8), and have the architecture at byte 28.
    fn entries(fatbin: &[u8]) -> Vec<(u16, u32)> {
        let word = |at: usize| u32::from_le_bytes(fatbin[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), 0xba55_ed50, "a fatbin's magic number");
        let (mut at, end) = (16, 16 + word(8) as usize);
        let mut found = Vec::new();
        while at < end.min(fatbin.len()) {
            found.push((word(at) as u16, word(at + 28)));
            at += (word(at + 4) + word(at + 8)) as usize;
        }
        found
    }

    #[test]
    fn every_module_holds_code_for_cards_up_to_hopper_and_ptx_for_newer_ones() {
        assert!(!MODULES.is_empty());
        for (name, image) in MODULES {
            let found = entries(&image.0);
            for wanted in [(1, 80), (2, 80), (2, 86), (2, 90)] {
                assert!(found.contains(&wanted), "{name}: {wanted:?} is not among {found:?}");
            }
        }
    }
}
