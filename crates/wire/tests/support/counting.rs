//! An allocator that counts, per thread, what is asked of it.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

pub struct Counting;

fn count(bytes: usize) {
    BYTES.set(BYTES.get() + bytes);
    CALLS.set(CALLS.get() + 1);
}

// SAFETY: every call is the system allocator's; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What an operation took from the allocator in all, whether or not it gave it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub bytes: usize,
    pub calls: usize,
}

/// Runs `operation` and counts what this thread allocates in it.
pub fn taken_by<T>(operation: impl FnOnce() -> T) -> (T, Taken) {
    let (bytes, calls) = (BYTES.get(), CALLS.get());
    let value = operation();
    (value, Taken { bytes: BYTES.get() - bytes, calls: CALLS.get() - calls })
}
