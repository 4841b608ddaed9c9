//! The bare password hash: Argon2id with the master's parameters on as many threads as the master has for
//! it, each with memory that it keeps, and nothing else.
//!
//! Invariant: the parameters are those with which the master has stored a password, or nothing is
//! measured.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use papertrader_store::PassHash;

use crate::bench::{BenchError, wrong};

/// What a client's hash is made of: 64 digits.
const PASS: [u8; 64] = [b'7'; 64];
const SALT: [u8; 16] = [7; 16];

/// Hashes a second on so many threads.
pub(super) fn bare(threads: usize, time: Duration) -> Result<f64, BenchError> {
    let start = Barrier::new(threads);
    let each = thread::scope(|scope| {
        let hashers: Vec<_> = (0..threads).map(|_| scope.spawn(|| one(&start, time))).collect();
        hashers
            .into_iter()
            .map(|hasher| hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<f64>, BenchError>>()
    })?;
    Ok(each.iter().sum())
}

/// The parameters in words, as a stored hash has them.
pub(super) fn parameters() -> String {
    let params = Params::default();
    format!("$argon2id$v=19$m={},t={},p={}$", params.m_cost(), params.t_cost(), params.p_cost())
}

/// That a password was stored with these parameters.
pub(super) fn check(stored: &PassHash) -> Result<(), BenchError> {
    if stored.0.starts_with(&parameters()) {
        return Ok(());
    }
    Err(wrong("the master hashes with other parameters than the bare hash"))
}

fn one(start: &Barrier, time: Duration) -> Result<f64, BenchError> {
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default());
    let mut memory = vec![Block::new(); argon.params().block_count()];
    let mut hash = || {
        let mut out = [0; Params::DEFAULT_OUTPUT_LEN];
        argon.hash_password_into_with_memory(&PASS, &SALT, &mut out, &mut memory).map_err(wrong)
    };
    // The first one gets its memory from the system.
    let first = hash();
    start.wait();
    first?;
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < time {
        hash()?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_parameters_are_seen() {
        let hash = |start: &str| PassHash(format!("{start}c2FsdHNhbHQ$aGFzaA"));
        check(&hash("$argon2id$v=19$m=19456,t=2,p=1$")).unwrap();
        check(&hash("$argon2id$v=19$m=19456,t=3,p=1$")).unwrap_err();
        check(&hash("$argon2i$v=19$m=19456,t=2,p=1$")).unwrap_err();
    }
}
