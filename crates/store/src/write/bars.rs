//! Writing bars: those of settlements to the tape and into chunks (`docs/design/0010-bars.md`), history
//! from the source a row each.
//!
//! Invariant: that of the batch, whose transaction it is part of.

use super::{Writer, Written, contradiction, signed};
use crate::BarRow;
use crate::bars;
use crate::rows::Value;
use crate::shape::Rows;

impl Writer<'_> {
    /// Bars of a settlement, which are written with the batch.
    pub(super) fn gather_bars(&mut self, bars: &[BarRow]) -> Written {
        for BarRow { instrument, bar, .. } in bars {
            self.known_instrument(*instrument, "a bar")?;
            if !bar.is_consistent() {
                return Err(contradiction(format!(
                    "a bar of instrument {instrument} contradicts itself"
                )));
            }
        }
        self.taped.extend_from_slice(bars);
        Ok(())
    }

    /// Bars of the source's history, and those that come after later ones.
    pub(super) fn put_bars(&mut self, bars: &[BarRow]) -> Written {
        for BarRow { instrument, resolution, bar } in bars {
            self.known_instrument(*instrument, "a bar")?;
            let values = [
                instrument.0.into(),
                i64::from(*resolution as u8).into(),
                bar.start.0.into(),
                bar.open.raw().into(),
                bar.high.raw().into(),
                bar.low.raw().into(),
                bar.close.raw().into(),
                bar.volume.raw().into(),
            ];
            self.write(Rows::Bar, &values)?;
        }
        Ok(())
    }

    /// Writes the row of the tape with all that was gathered, and the chunks whose turn comes with it.
    pub(super) fn tape(&mut self) -> Written {
        let taped = std::mem::take(&mut self.taped);
        let (row, late) = self.staged.tails().row(taped);
        // The step of the source's time was changed.
        self.put_bars(&late)?;
        if row.is_empty() {
            return Ok(());
        }
        let chunks = self.staged.tails().closed_by(&row);
        let number = signed(row.number, "the number of a row of bars")?;
        self.write(Rows::Tape, &[number.into(), Value::Bytes(&row.bytes())])?;
        for ((instrument, resolution), bars) in chunks {
            let (Some(first), Some(last)) = (bars.first(), bars.last()) else { continue };
            let bytes = bars::encode_chunk(&bars);
            let values = [
                instrument.0.into(),
                i64::from(resolution as u8).into(),
                first.start.0.into(),
                last.start.0.into(),
                Value::Bytes(&bytes),
            ];
            self.write(Rows::Chunk, &values)?;
        }
        if let Some(over) = row.over() {
            self.write(Rows::TapeEnd, &[signed(over, "the number of a row of bars")?.into()])?;
        }
        self.staged.taped(row);
        Ok(())
    }
}
