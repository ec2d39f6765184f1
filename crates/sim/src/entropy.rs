//! The system's source of random bytes, which in a simulation is none: hash tables and the runtime's own choices take their
//! keys from it, and with them the order in which things happen.

#![expect(unsafe_code, reason = "takes the place of a function of the C library")]

/// Takes the place of getrandom(2) in this process: the same bytes every time.
///
/// # Safety
///
/// `buffer` must be `len` bytes that may be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    for (at, byte) in (0..len).zip((0..=u8::MAX).cycle()) {
        // SAFETY: the caller says that it is there.
        unsafe { buffer.add(at).write(byte.wrapping_mul(167)) };
    }
    isize::try_from(len).unwrap_or(isize::MAX)
}
