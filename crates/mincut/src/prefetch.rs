//! A hint that a place in memory will be read soon.

/// Asks the processor to fetch `slice[at]`; beyond the end nothing happens, and on other processors nothing at all.
#[inline(always)]
#[allow(unsafe_code, reason = "a hint that cannot be given in safe code on a stable toolchain")]
pub(crate) fn prefetch<T>(slice: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(place) = slice.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: what the call needs is SSE, which every x86-64 has. The hint reads and writes nothing, and the address
        // is that of an element of the slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, at);
}
