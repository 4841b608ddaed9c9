//! Which prices this worker has, and what it hears of newer ones, without I/O.
//!
//! A step is taken if it follows what is here; else the difference is asked for, once, and what comes
//! before the answer is passed over. Invariant: what clients see is always one whole snapshot.

use std::sync::Arc;

use papertrader_core::names::Symbol;
use papertrader_protocol::frame::Frame;
use papertrader_protocol::push::{SnapshotDifference, SnapshotPush, SnapshotStep};
use papertrader_protocol::transfer::Assembly;
use papertrader_protocol::wire::Wire;
use rustc_hash::FxHashSet;

use super::LinkError;
use super::exchange::assemble;
use crate::cache::{Prices, Setting};
use crate::driver::Shared;

/// The part of the cache's bytes that the bars of the last snapshots may take beside it.
const PAST: u64 = 4;

/// What of a link's prices is on its way.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    push: Assembly,
    step: Assembly,
    /// The difference was asked for, and has not come.
    is_asked: bool,
    /// Assets whose past was asked for since the last step.
    watch: FxHashSet<Symbol>,
}

impl Snapshots {
    /// What the master must hear: at the start of a link, and when it was missing something.
    pub(super) fn ask(&mut self, shared: &Shared) -> SnapshotDifference {
        self.is_asked = true;
        let nothing = SnapshotDifference { sequence: 0, number: 0, list: 0 };
        shared.prices.load().as_ref().map_or(nothing, |prices| prices.have())
    }

    /// Whether a difference was asked for and has not come.
    pub(super) fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// The past of an asset is asked for: what comes to it is kept from now on.
    pub(super) fn watch(&mut self, symbol: Symbol) {
        self.watch.insert(symbol);
    }

    /// Takes a packet of a `snapshot`. True if the difference must be asked for.
    pub(super) fn pushed(&mut self, frame: &Frame<'_>, shared: &Shared) -> Result<bool, LinkError> {
        let malformed = LinkError::Malformed("snapshot");
        let Some(data) = assemble(&mut self.push, frame).map_err(|_| malformed)? else {
            return Ok(false);
        };
        let push = SnapshotPush::from_bytes(&data);
        let push = push.map_err(|_| LinkError::Malformed("snapshot"))?;
        let before = shared.prices.load_full();
        self.is_asked = false;
        if push.base != 0 && !follows(before.as_deref(), push.sequence, push.base) {
            return Ok(true);
        }
        let source = shared.welcome.load();
        let source = source.as_ref().map_or("", |welcome| welcome.source.as_str());
        let room = usize::try_from(shared.config.cache_bytes / PAST).unwrap_or(usize::MAX);
        let setting = Setting { source, room };
        take(shared, Prices::pushed(push, before.as_deref(), setting)?);
        Ok(false)
    }

    /// Takes a packet of a `snapshotStep`. True if the difference must be asked for.
    pub(super) fn stepped(
        &mut self,
        frame: &Frame<'_>,
        shared: &Shared,
    ) -> Result<bool, LinkError> {
        let malformed = LinkError::Malformed("snapshotStep");
        let Some(data) = assemble(&mut self.step, frame).map_err(|_| malformed)? else {
            return Ok(false);
        };
        let step = SnapshotStep::from_bytes(&data);
        let step = step.map_err(|_| LinkError::Malformed("snapshotStep"))?;
        let before = shared.prices.load_full();
        match before.filter(|before| follows(Some(before), step.sequence, step.base)) {
            Some(before) => {
                self.is_asked = false;
                let watch: Vec<Symbol> = self.watch.drain().collect();
                take(shared, before.stepped(&step, &watch)?);
                Ok(false)
            }
            None => Ok(!self.is_asked),
        }
    }
}

fn follows(before: Option<&Prices>, sequence: u64, base: u64) -> bool {
    let have = before.map(Prices::have);
    have.is_some_and(|have| (have.sequence, have.number) == (sequence, base))
}

fn take(shared: &Shared, prices: Prices) {
    shared.prices.store(Some(Arc::new(prices)));
    shared.priced.send_replace(());
    shared.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
}
