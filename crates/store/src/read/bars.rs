//! Reading bars: those of settlements from chunks and, what the tape alone has, from memory
//! (`docs/design/0010-bars.md`); history from the source from rows.
//!
//! Of what two say of the same time, settlements count before rows: these are history, or from the time
//! before there were chunks.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::InstrumentId;
use papertrader_core::time::MarketTime;

use super::{Ask, first, rows, sql_limit};
use crate::bars::{self, Series, Tails};
use crate::rows::{BAR_COLUMNS, Cells, Reading};
use crate::{BarRow, StoreError};

/// Which bars are asked for.
pub(super) struct Wanted {
    pub(super) instrument: InstrumentId,
    pub(super) resolution: Resolution,
    pub(super) from: MarketTime,
    pub(super) to: MarketTime,
    pub(super) limit: usize,
}

/// The first of the bars that are asked for, in order of time. `tail` is what the tape alone has of them.
pub(super) fn read(ask: &dyn Ask, wanted: &Wanted, tail: &[Bar]) -> Result<Vec<Bar>, StoreError> {
    let Wanted { instrument, resolution, from, to, limit } = *wanted;
    if from >= to || limit == 0 {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {BAR_COLUMNS} FROM bar
         WHERE instrument = ?1 AND resolution = ?2 AND start >= ?3 AND start < ?4
         ORDER BY start LIMIT ?5"
    );
    let kind = i64::from(resolution as u8);
    let values =
        [instrument.0.into(), kind.into(), from.0.into(), to.0.into(), sql_limit(limit).into()];
    let history = rows(ask, &sql, &values, rows::bar)?;
    let mut settled = of_chunks(ask, wanted)?;
    bars::extend(&mut settled, tail.iter().copied());
    settled.retain(|bar| (from..to).contains(&bar.start));
    let mut bars = merged(settled, history);
    bars.truncate(limit);
    Ok(bars)
}

/// The last bar before a time.
pub(super) fn last(
    ask: &dyn Ask,
    instrument: InstrumentId,
    resolution: Resolution,
    before: MarketTime,
    tail: &[Bar],
) -> Result<Option<Bar>, StoreError> {
    let sql = format!(
        "SELECT {BAR_COLUMNS} FROM bar
         WHERE instrument = ?1 AND resolution = ?2 AND start < ?3
         ORDER BY start DESC LIMIT 1"
    );
    let kind = i64::from(resolution as u8);
    let values = [instrument.0.into(), kind.into(), before.0.into()];
    let history: Vec<_> = first(ask, &sql, &values, rows::bar)?.into_iter().collect();
    let sql = "SELECT instrument, resolution, first, last, bars FROM bar_chunk
               WHERE instrument = ?1 AND resolution = ?2 AND first < ?3
               ORDER BY first DESC LIMIT 1";
    let mut settled = first(ask, sql, &values, |row| Ok(chunk(row)?.1))?.unwrap_or_default();
    bars::extend(&mut settled, tail.iter().copied());
    settled.retain(|bar| bar.start < before);
    let last = settled.pop().into_iter().collect();
    Ok(merged(last, history).pop())
}

/// What the tape alone has of so many instruments.
pub(crate) fn tails(ask: &dyn Ask, instruments: u32) -> Result<Tails, StoreError> {
    let sql = "SELECT coalesce(max(number), 0) FROM bar_tape";
    let last = first(ask, sql, &[], |row| Reading::new(row, "bar_tape", 0).number(0))?;
    let (last, mut tails) = (last.unwrap_or(0), Tails::default());
    // A look at the last chunk of each series.
    let sql = "SELECT i.id, CAST(r.resolution AS SMALLINT) AS resolution,
                      (SELECT c.last FROM bar_chunk AS c
                       WHERE c.instrument = i.id AND c.resolution = r.resolution
                       ORDER BY c.first DESC LIMIT 1) AS last
               FROM instrument AS i CROSS JOIN (
                   SELECT 0 AS resolution UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3
               ) AS r";
    ask.for_each(sql, &[], &mut |row| {
        let row = Reading::new(row, "bar_chunk", 2);
        let resolution = Resolution::from_number(row.number(1)?);
        if let (Some(resolution), Some(last)) = (resolution, row.optional(2)?) {
            tails.put_last((row.instrument(0)?, resolution), MarketTime(last));
        }
        Ok(())
    })?;
    tape(ask, &mut |row, number, bars| {
        if bars.iter().any(|bar| !(1..=instruments).contains(&bar.instrument.0)) {
            return Err(row.corrupt("it has a bar of an instrument that is unknown"));
        }
        tails.take(last, number, &bars).map_err(|why| row.corrupt(why))
    })?;
    Ok(tails)
}

/// What is done with a row of the tape: its number and bars.
type EachRow<'e> = dyn FnMut(&Reading<'_>, u64, Vec<BarRow>) -> Result<(), StoreError> + 'e;

/// Hands each row of the tape, in order, to a function.
pub(crate) fn tape(ask: &dyn Ask, each: &mut EachRow<'_>) -> Result<(), StoreError> {
    ask.for_each("SELECT number, bars FROM bar_tape ORDER BY number", &[], &mut |row| {
        let row = Reading::new(row, "bar_tape", 1);
        let bars = bars::decode_row(row.blob(1)?).map_err(|why| row.corrupt(why))?;
        each(&row, row.number(0)?, bars)
    })
}

/// A chunk: of what it is, and its bars, one or more.
pub(crate) type Chunk = (Series, Vec<Bar>);

/// Hands each chunk, by series and in order of time, to a function; or what is wrong with it.
pub(crate) fn chunks(
    ask: &dyn Ask,
    each: &mut dyn FnMut(Result<Chunk, StoreError>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let sql = "SELECT instrument, resolution, first, last, bars FROM bar_chunk
               ORDER BY instrument, resolution, first";
    ask.for_each(sql, &[], &mut |row| each(chunk(row)))
}

/// The bars of all chunks in which some that are wanted may be, in order of time; of the first and the last
/// of them perhaps more than are wanted.
fn of_chunks(ask: &dyn Ask, wanted: &Wanted) -> Result<Vec<Bar>, StoreError> {
    // Chunks follow each other: the one in which `from` lies is the last that does not begin after it.
    let sql = "SELECT instrument, resolution, first, last, bars FROM bar_chunk
               WHERE instrument = ?1 AND resolution = ?2 AND first < ?4 AND first >= coalesce(
                   (SELECT max(first) FROM bar_chunk
                    WHERE instrument = ?1 AND resolution = ?2 AND first <= ?3), ?3)
               ORDER BY first LIMIT ?5";
    let Wanted { instrument, resolution, from, to, limit } = *wanted;
    let resolution = i64::from(resolution as u8);
    // The first one's bars may lie before `from`, each other has one that is in no other, and one more is
    // read because its first may supersede the last of those before it.
    let most = sql_limit(limit.saturating_add(2));
    let values = [instrument.0.into(), resolution.into(), from.0.into(), to.0.into(), most.into()];
    let mut all: Vec<Bar> = Vec::new();
    ask.for_each(sql, &values, &mut |row| {
        let early = all.partition_point(|bar| bar.start < from);
        if all.len() - early <= limit {
            bars::extend(&mut all, chunk(row)?.1);
        }
        Ok(())
    })?;
    Ok(all)
}

fn chunk(row: &dyn Cells) -> Result<Chunk, StoreError> {
    let row = Reading::new(row, "bar_chunk", 3);
    let resolution = Resolution::from_number(row.number(1)?);
    let resolution = resolution.ok_or_else(|| row.corrupt("its resolution is unknown"))?;
    let bars = bars::decode_chunk(row.blob(4)?).map_err(|why| row.corrupt(why))?;
    let ends = (row.market(2)?, row.market(3)?);
    if bars.first().zip(bars.last()).map(|(first, last)| (first.start, last.start)) != Some(ends) {
        return Err(row.corrupt("its bars are of another time"));
    }
    Ok(((row.instrument(0)?, resolution), bars))
}

/// Bars of settlements and of history, both in order of time, in one.
fn merged(settled: Vec<Bar>, history: Vec<Bar>) -> Vec<Bar> {
    if history.is_empty() {
        return settled;
    }
    let mut bars = Vec::with_capacity(settled.len() + history.len());
    let mut settled = settled.into_iter().peekable();
    for bar in history {
        while let Some(before) = settled.next_if(|settled| settled.start < bar.start) {
            bars.push(before);
        }
        bars.push(settled.next_if(|settled| settled.start == bar.start).unwrap_or(bar));
    }
    bars.extend(settled);
    bars
}

#[cfg(test)]
mod tests {
    use papertrader_core::money::{Price, Volume};

    use super::*;

    fn bar(start: i64, raw: i64) -> Bar {
        let price = Price::from_raw(raw).unwrap();
        let (start, volume) = (MarketTime(start), Volume::from_raw(0));
        Bar { start, open: price, high: price, low: price, close: price, volume }
    }

    #[test]
    fn settlements_count_before_history() {
        let settled = vec![bar(1, 10), bar(2, 20), bar(4, 40)];
        let history = vec![bar(0, 5), bar(2, 22), bar(3, 33)];
        let expected = [bar(0, 5), bar(1, 10), bar(2, 20), bar(3, 33), bar(4, 40)];
        assert_eq!(merged(settled.clone(), history), expected);
        assert_eq!(merged(settled.clone(), Vec::new()), settled);
        assert_eq!(merged(Vec::new(), vec![bar(9, 1)]), [bar(9, 1)]);
    }
}
