//! How long the system lets a thread go on while others wait for its processor.
//!
//! Linux lets a thread that was woken wait for the whole slice of the one that runs, a millisecond
//! and more; a thread that asks for shorter slices is interrupted sooner, and gets as much time in
//! all. A thread that does long work beside others who answer asks for the shortest.
//!
//! It is the one crate with `unsafe` code: these system calls have no safe wrapper in any library,
//! and with them the p99 of a client under attack is a third lower (`docs/performance.md`).
//!
//! Invariant: nothing depends on it. Where the system does not know such slices, it changes nothing.

#[cfg(target_os = "linux")]
pub use linux::ask_for_the_shortest;

/// Asks for the shortest slices for the thread that calls: this system has none to give.
///
/// # Errors
///
/// None.
#[cfg(not(target_os = "linux"))]
pub fn ask_for_the_shortest() -> std::io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use libc::{c_uint, pid_t, sched_attr};

    /// The shortest slice that Linux grants, in nanoseconds.
    const SHORTEST: u64 = 100_000;
    const SIZE: c_uint = size_of::<sched_attr>() as c_uint;
    const THIS_THREAD: pid_t = 0;
    const NO_FLAGS: c_uint = 0;

    /// Asks for the shortest slices for the thread that calls, which keeps its priority.
    ///
    /// # Errors
    ///
    /// What the system says if it refuses. Linux before 6.12 has no slices to choose: it says
    /// nothing, and leaves everything as it was.
    pub fn ask_for_the_shortest() -> io::Result<()> {
        let mut scheduling = scheduling()?;
        // To the other policies, which an operator may have chosen, the field means other things.
        if scheduling.sched_policy != libc::SCHED_OTHER as u32 {
            return Ok(());
        }
        scheduling.sched_runtime = SHORTEST;
        // SAFETY: the kernel reads `scheduling.size` bytes, which is no more than the structure
        // has, before the call is over.
        let set = unsafe {
            libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const scheduling, NO_FLAGS)
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn scheduling() -> io::Result<sched_attr> {
        let mut scheduling = sched_attr {
            size: SIZE,
            sched_policy: 0,
            sched_flags: 0,
            sched_nice: 0,
            sched_priority: 0,
            sched_runtime: 0,
            sched_deadline: 0,
            sched_period: 0,
        };
        let to = &raw mut scheduling;
        // SAFETY: the kernel writes at most `SIZE` bytes, the size of the structure, before the
        // call is over; any bytes are a valid value of each of its fields.
        let got =
            unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, to, SIZE, NO_FLAGS) };
        if got == 0 { Ok(scheduling) } else { Err(io::Error::last_os_error()) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_thread_has_the_shortest_slices_and_the_priority_that_it_had() {
            let thread = std::thread::spawn(|| {
                let before = scheduling()?;
                ask_for_the_shortest()?;
                Ok::<_, io::Error>((before, scheduling()?))
            });
            let (before, after) = thread.join().expect("no panic").expect("the system knows them");
            let priority = |attr: &sched_attr| {
                (attr.sched_policy, attr.sched_flags, attr.sched_nice, attr.sched_priority)
            };
            assert_eq!(priority(&before), priority(&after));
            // A system without slices says 0, before and after.
            let asked = if before.sched_runtime == 0 { 0 } else { SHORTEST };
            assert_eq!(after.sched_runtime, asked);
        }
    }
}
