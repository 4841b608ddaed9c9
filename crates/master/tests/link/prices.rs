//! Prices and history: what workers are told, what windows hold, what a restart keeps.

use papertrader_core::bar::Resolution;
use papertrader_core::time::{Date, MarketTime};
use papertrader_protocol::data::Bars;
use papertrader_protocol::push::SnapshotDifference;
use papertrader_protocol::request::Span;
use papertrader_protocol::{Reason, Request, SessionId};

use crate::harness::*;

fn spans(date: &str) -> Vec<Span> {
    let date = Date::parse(date).unwrap();
    let (from, to) = (MarketTime(i64::MIN), MarketTime(i64::MAX));
    let mut spans =
        vec![Span::Day(date), Span::Week(date), Span::Month(date), Span::Year(date), Span::AllTime];
    spans.extend([Resolution::Day, Resolution::Month].map(|r| Span::Bars(r, from, to)));
    let recently = Date::parse("2005-02-20").unwrap().start();
    spans.extend([Resolution::Interval, Resolution::Hour].map(|r| Span::Bars(r, recently, to)));
    spans
}

async fn windows(worker: &mut FakeWorker, symbol: &str) -> Vec<Bars> {
    let mut answers = Vec::new();
    for date in ["2005-02-25", "2005-02-24", "2005-01-31"] {
        for span in spans(date) {
            let request = Request::Bars(symbol.parse().unwrap(), span);
            answers.push(worker.ask_data(SessionId::NONE, &request).await);
        }
    }
    answers
}

async fn full_snapshot(master: &TestMaster) -> Told {
    FakeWorker::connect(master.address, WORKERS[1]).await.snapshot().await
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_day_changes_no_price_and_no_window() {
    let mut master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    // One opening, a few steps, and the close of the first day with the opening of the second,
    // where AAPL splits: at each the master is ended and started again.
    for steps in [0, 3, 10, 1, 2] {
        for _ in 0..steps {
            master.tick().await;
            worker.snapshot().await;
        }
        let snapshot = full_snapshot(&master).await;
        let before = windows(&mut worker, "AAPL").await;
        let (dir, result) = master.end().await;
        result.unwrap();
        master = TestMaster::start_in(dir, Setup::default()).await;
        worker = FakeWorker::connect(master.address, WORKERS[0]).await;
        assert_eq!(worker.snapshot().await, snapshot);
        let after = windows(&mut worker, "AAPL").await;
        assert_eq!(after, before, "after {steps} more steps");
        worker.snapshot_aside();
    }
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn windows_are_asked_for_with_sense_or_refused() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let tomorrow = Date::parse("2005-02-26").unwrap();
    let refused = [
        ("NONE", Span::AllTime, Reason::UnknownAsset),
        ("AAPL", Span::Day(tomorrow), Reason::FutureDate),
        ("AAPL", Span::Year(tomorrow), Reason::FutureDate),
    ];
    for (symbol, span, reason) in refused {
        let request = Request::Bars(symbol.parse().unwrap(), span);
        let number = worker.send(SessionId::NONE, &request).await;
        assert_eq!(worker.refusal(number).await, reason);
    }
    // Listed later: no bars, and no refusal. Nothing at all on a Sunday.
    let empty = [
        ("FB", Span::AllTime),
        ("AAPL", Span::Day(Date::parse("2005-02-20").unwrap())),
        ("AAPL", Span::Day(Date::parse("1999-02-20").unwrap())),
    ];
    for (symbol, span) in empty {
        let request = Request::Bars(symbol.parse().unwrap(), span);
        let bars: Bars = worker.ask_data(SessionId::NONE, &request).await;
        assert_eq!(bars.bars, []);
    }
    // What was before the start is there at every resolution.
    let day = Span::Day(Date::parse("2004-07-01").unwrap());
    let request = Request::Bars("IBM".parse().unwrap(), day);
    let bars: Bars = worker.ask_data(SessionId::NONE, &request).await;
    assert_eq!(bars.bars.len(), 13);
    let number = worker.send(SessionId::NONE, &Request::Predicted("FB".parse().unwrap(), 5)).await;
    assert_eq!(worker.refusal(number).await, Reason::NoPrice);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn what_is_over_is_final_and_today_is_not() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    for (date, is_final) in [("2005-02-24", true), ("2005-02-25", false)] {
        let span = Span::Week(Date::parse(date).unwrap());
        let request = Request::Bars("AAPL".parse().unwrap(), span);
        let number = worker.send(SessionId::NONE, &request).await;
        let answer = worker.receive_where(|r| r.header.request == number).await;
        assert_eq!(answer.header.is_final, is_final, "{date}");
    }
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_worker_that_comes_back_is_told_what_it_missed() {
    let master = TestMaster::start(Setup::default()).await;
    let mut other = FakeWorker::connect(master.address, WORKERS[1]).await;
    other.snapshot().await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let first = worker.snapshot().await;
    assert_eq!((first.base, first.instruments.is_empty()), (0, false));
    let (have, shown) = (worker.have.clone(), worker.shown.clone());
    drop(worker);
    for _ in 0..3 {
        master.tick().await;
        other.snapshot().await;
    }
    let mut worker = FakeWorker::connect_silent(master.address, WORKERS[0]).await;
    (worker.have, worker.shown) = (have.clone(), shown);
    worker.ask_prices(&have).await;
    let missed = worker.snapshot().await;
    assert_eq!((missed.base, missed.number), (first.number, first.number + 3));
    assert_eq!(missed.instruments, []);
    assert_eq!(worker.shown, other.shown);
    // And from then on each step.
    master.tick().await;
    assert_eq!(worker.snapshot().await, other.snapshot().await);
    // Of another master, or of this one's former start, it may have anything.
    let mut worker = FakeWorker::connect_silent(master.address, WORKERS[0]).await;
    worker.ask_prices(&SnapshotDifference { sequence: 1, ..have }).await;
    let all = worker.snapshot().await;
    assert_eq!((all.base, all.instruments), (0, vec![]));
    assert_eq!(worker.shown, other.shown);
    master.end().await.1.unwrap();
}
