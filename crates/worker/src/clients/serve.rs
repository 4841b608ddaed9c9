//! Answers what was judged fit to be served: from the cache on the spot, or through the uplink.

use std::sync::Arc;

use arc_swap::Guard;
use papertrader_core::time::WallTime;
use papertrader_protocol::frame::{Header, glance};
use papertrader_protocol::instruction::{Instruction, MessageType, State};
use papertrader_protocol::request::Symbols;
use papertrader_protocol::returns::{Return, Welcome};
use papertrader_protocol::{Failure, Frame, Reason, Request, SessionId, frame, transfer};
use tokio::time::Instant;

use super::Hub;
use super::connection::{Connection, Inner};
use super::judge::judge;
use super::subscription::Subscription;
use crate::cache::Prices;
use crate::cache::history::{Answer, Question};
use crate::uplink::{Ask, Content, Delivery, Route, Step};

/// Sessions that one connection uses at the same time; the one not used for longest is let go.
const MAX_SESSIONS: usize = 8;

/// When frames of a client are taken, and the prices of that time: looked up once for many.
pub(super) struct Moment {
    wall: WallTime,
    instant: Instant,
    prices: Guard<Option<Arc<Prices>>>,
}

impl Moment {
    pub(super) fn now(hub: &Hub, instant: Instant) -> Moment {
        Moment { wall: hub.shared.clock.glance(), instant, prices: hub.shared.prices.load() }
    }
}

/// Takes a frame of a client.
pub(super) fn handle(hub: &Hub, connection: &Connection, frame: &Frame<'_>, now: &Moment) {
    let mut inner = connection.inner.borrow_mut();
    let inner = &mut *inner;
    let request = frame.header.request;
    let state = inner.state;
    let judged = judge(frame, state, |session| use_session(hub, connection, inner, session, now));
    match judged {
        Ok((instruction, asked)) => {
            serve(hub, connection, inner, frame, instruction, asked);
        }
        Err(refusal) => {
            inner.fail(request, refusal.instruction, refusal.failure);
            if refusal.fatal {
                connection.close();
            }
        }
    }
}

/// Answers what is asked most often, the prices of assets under the session that the connection used
/// last, at most `most` of them at the start of `bytes`, while nothing is wrong. How many there were,
/// and their bytes. Everything else, and every refusal, is [`handle`]'s.
pub(super) fn quotes(
    connection: &Connection,
    bytes: &[u8],
    most: usize,
    now: &Moment,
) -> (usize, usize) {
    let mut inner = connection.inner.borrow_mut();
    let Inner { state: State::DataTransfer, out, sessions, .. } = &mut *inner else {
        return (0, 0);
    };
    let (Some(used), Some(prices)) = (sessions.last(), now.prices.as_ref()) else { return (0, 0) };
    let (session, instruction) = (used.session(), Instruction::GetAssetValueCurrent);
    let (mut count, mut rest) = (0, bytes);
    while count < most
        && let Some(asked) = glance(rest, MessageType::DataTransfer, instruction as u16, 1)
        && session.id() == asked.session
        && session.check(now.wall).is_ok()
        && let Some(answer) = prices.value_of(asked.data)
    {
        out.put(|out| answer.put(asked.request, out));
        rest = rest.get(asked.used..).unwrap_or_default();
        count += 1;
    }
    if count > 0 {
        connection.note_use(now.instant);
    }
    (count, bytes.len() - rest.len())
}

/// Verifies a session, and notes that this connection uses it.
fn use_session(
    hub: &Hub,
    connection: &Connection,
    inner: &mut Inner,
    session: SessionId,
    now: &Moment,
) -> Result<(), Reason> {
    let sessions = &mut inner.sessions;
    if let Some(at) = sessions.iter().rposition(|used| used.session().id() == session) {
        match sessions[at].session().check(now.wall) {
            Ok(()) => {
                connection.note_use(now.instant);
                if let Some(since) = sessions.get_mut(at..) {
                    since.rotate_left(1);
                }
                return Ok(());
            }
            // It may have been granted anew since.
            Err(_) => drop(sessions.remove(at)),
        }
    }
    let attachment = hub.shared.sessions.attach(session, connection.peer, now.wall)?;
    connection.note_use(now.instant);
    keep(sessions, attachment);
    Ok(())
}

fn keep(sessions: &mut Vec<crate::auth::Attachment>, attachment: crate::auth::Attachment) {
    if sessions.len() >= MAX_SESSIONS {
        sessions.remove(0);
    }
    // Most connections use one.
    sessions.reserve_exact(1);
    sessions.push(attachment);
}

fn serve(
    hub: &Hub,
    connection: &Connection,
    inner: &mut Inner,
    frame: &Frame<'_>,
    instruction: Instruction,
    asked: Request,
) {
    let request = frame.header.request;
    let shared = &hub.shared;
    match asked {
        Request::Hello => {
            let (welcome, prices) = (shared.welcome.load(), shared.prices.load());
            match (welcome.as_ref(), prices.as_ref()) {
                (Some(welcome), Some(prices)) => {
                    let own_name = shared.config.name.as_ref();
                    let answer = Return::Welcome(Welcome {
                        version: frame::VERSION,
                        deployment: welcome.deployment.clone(),
                        interval: welcome.interval,
                        market: prices.market,
                        server: own_name.unwrap_or(&welcome.name).clone(),
                    });
                    inner.out.put(|out| answer.put(request, out));
                }
                _ => inner.fail(request, instruction.failure(), Reason::Unavailable.into()),
            }
        }
        Request::Ping(text) => {
            let answer = Return::Pong(text);
            inner.out.put(|out| answer.put(request, out));
        }
        Request::Goodbye => connection.drain(Instant::now() + shared.config.write_timeout),
        Request::GetWorkerList => inner.put_worker_list(hub, request),
        Request::SwitchState(state) => {
            if inner.transfers.waiting() >= shared.config.max_requests_per_connection {
                let failure = Reason::TooManyRequests.into();
                return inner.fail(request, instruction.failure(), failure);
            }
            inner.state = state;
            inner.transfers.switch(request, state);
            inner.answer_switches();
        }
        Request::AssetValue(symbol) => {
            let prices = shared.prices.load();
            let value = prices.as_ref().ok_or(Reason::Unavailable);
            match value.and_then(|prices| prices.value(symbol)) {
                Ok(answer) => inner.out.put(|out| answer.put(request, out)),
                Err(reason) => inner.fail(request, instruction.failure(), reason.into()),
            }
        }
        Request::AssetInfo(symbol) => {
            let prices = shared.prices.load();
            let info = prices.as_ref().ok_or(Reason::Unavailable);
            match info.and_then(|prices| prices.info(symbol)) {
                Ok(answer) => inner.out.put(|out| answer.put(request, out)),
                Err(reason) => inner.fail(request, instruction.failure(), reason.into()),
            }
        }
        Request::AssetList => match shared.prices.load().as_ref() {
            Some(prices) => {
                inner.out.put_data(data_header(request, false), &prices.list(&shared.outgoing))
            }
            None => inner.fail(request, instruction.failure(), Reason::Unavailable.into()),
        },
        Request::SubscribeAssets(symbols) => {
            match shared.prices.load().as_ref() {
                Some(prices) => inner.subscribe(prices, request, frame.header.session, symbols),
                None => inner.fail(request, instruction.failure(), Reason::Unavailable.into()),
            }
            hub.note_subscribed(connection.id, inner.subscription.is_some());
        }
        Request::UnsubscribeAssets(symbols) => {
            inner.unsubscribe(shared.prices.load().as_ref(), request, symbols);
            hub.note_subscribed(connection.id, inner.subscription.is_some());
        }
        Request::Bars(..) | Request::Predicted(..) => {
            let question = Question::of(&asked);
            match question.map_or(Ok(None), |question| from_history(hub, &question)) {
                Ok(Some(answer)) => inner.put_answer(request, &answer),
                Ok(None) => pass_on(hub, connection, inner, frame, instruction, question),
                Err(reason) => inner.fail(request, instruction.failure(), reason.into()),
            }
        }
        Request::Login { .. }
        | Request::LoginSession
        | Request::Register { .. }
        | Request::Logout
        | Request::LogoutEverywhere
        | Request::ChangePassword { .. }
        | Request::PurchaseAsset(_)
        | Request::SellAsset(_)
        | Request::CancelOrder(_)
        | Request::SubscribeOrders(_)
        | Request::UserInfo(_)
        | Request::Portfolio(_)
        | Request::History(_)
        | Request::Orders(_)
        | Request::Order(_) => pass_on(hub, connection, inner, frame, instruction, None),
    }
}

/// The answer from the cache, if it is there.
fn from_history(hub: &Hub, question: &Question) -> Result<Option<Answer>, Reason> {
    let prices = hub.shared.prices.load();
    let Some(prices) = prices.as_ref() else { return Ok(None) };
    if !prices.knows(question.symbol()) {
        return Err(Reason::UnknownAsset);
    }
    Ok(hub.shared.history.get(question, prices, &hub.shared.outgoing))
}

/// Hands a request to the uplink.
fn pass_on(
    hub: &Hub,
    connection: &Connection,
    inner: &mut Inner,
    frame: &Frame<'_>,
    instruction: Instruction,
    question: Option<Question>,
) {
    let request = frame.header.request;
    let config = &hub.shared.config;
    let is_order = matches!(instruction, Instruction::PurchaseAsset | Instruction::SellAsset);
    if inner.waiting >= config.max_requests_per_connection
        || is_order && inner.outcomes >= config.max_outcomes_per_connection
    {
        return inner.fail(request, instruction.failure(), Reason::TooManyRequests.into());
    }
    let is_transfer = instruction.failure() == Instruction::DataFail;
    let transfer = is_transfer.then(|| inner.transfers.begin());
    let (thread, connection_id) = (hub.thread, connection.id);
    let alive = connection.alive();
    let asked = hub.uplink.ask(Ask {
        route: Route { thread, connection: connection_id, request, transfer, alive },
        instruction,
        arguments: frame.header.argument_count,
        data: frame.data.into(),
        session: frame.header.session,
        client: connection.peer,
        question,
        received_at: WallTime(0),
        sequence: 0,
    });
    match asked {
        Ok(()) => inner.waiting += 1,
        Err(reason) => {
            inner.fail(request, instruction.failure(), reason.into());
            if let Some(transfer) = transfer {
                inner.transfers.end(transfer);
                inner.answer_switches();
            }
        }
    }
}

/// Brings an answer of the uplink to its connection.
pub(super) fn deliver(hub: &Hub, connection: &Connection, delivery: Delivery) {
    let Delivery { route, step, content } = delivery;
    let mut inner = connection.inner.borrow_mut();
    match step {
        Step::Only => inner.waiting = inner.waiting.saturating_sub(1),
        Step::First => {
            inner.waiting = inner.waiting.saturating_sub(1);
            inner.outcomes += 1;
        }
        Step::Outcome => inner.outcomes = inner.outcomes.saturating_sub(1),
        Step::Push => {}
    }
    match content {
        Content::Return { instruction, arguments, data } => {
            let number = instruction as u16;
            let mut header = Header::new(instruction.message_type(), number, route.request);
            header.argument_count = arguments;
            inner.out.put(|out| header.encode(&data, out));
        }
        Content::Refused(instruction, reason) => {
            inner.fail(route.request, instruction, reason.into());
        }
        Content::Data(answer) => inner.put_answer(route.request, &answer),
        Content::Session(grant, attachment) => {
            connection.note_use(Instant::now());
            let used = |known: &crate::auth::Attachment| {
                std::ptr::eq(known.session(), attachment.session())
            };
            if !inner.sessions.iter().any(used) {
                keep(&mut inner.sessions, attachment);
            }
            let answer = Return::Session(grant);
            inner.out.put(|out| answer.put(route.request, out));
            inner.put_worker_list(hub, route.request);
        }
        Content::Nothing => {}
    }
    if let Some(transfer) = route.transfer {
        inner.transfers.end(transfer);
        inner.answer_switches();
    }
    drop(inner);
    connection.wake();
}

impl Inner {
    fn fail(&mut self, request: u64, instruction: Instruction, failure: Failure) {
        let refusal = Return::Failed(instruction, failure);
        self.out.put(|out| refusal.put(request, out));
    }

    /// Adds assets to those that the connection hears of, if all of them exist.
    fn subscribe(&mut self, prices: &Prices, request: u64, session: SessionId, symbols: Symbols) {
        if let Symbols::These(symbols) = &symbols
            && symbols.iter().any(|symbol| !prices.knows(*symbol))
        {
            return self.fail(request, Instruction::SubscribeFail, Reason::UnknownAsset.into());
        }
        let subscription = self.subscription.get_or_insert_with(|| Box::new(Subscription::new()));
        if !subscription.add(request, session, symbols) {
            return self.fail(request, Instruction::SubscribeFail, Reason::TooManyRequests.into());
        }
        let answer = Return::Subscribed(subscription.count(prices).to_string());
        self.out.put(|out| answer.put(request, out));
    }

    fn unsubscribe(&mut self, prices: Option<&Arc<Prices>>, request: u64, symbols: Symbols) {
        let mut left = 0;
        if let Some(subscription) = &mut self.subscription {
            subscription.remove(symbols);
            left = prices.map_or(0, |prices| subscription.count(prices));
            if subscription.is_empty() {
                self.subscription = None;
            }
        }
        let answer = Return::Subscribed(left.to_string());
        self.out.put(|out| answer.put(request, out));
    }

    fn put_answer(&mut self, request: u64, answer: &Answer) {
        self.out.put_data(data_header(request, answer.is_final), &answer.data);
    }

    /// The list of workers, as the master pushed it last.
    fn put_worker_list(&mut self, hub: &Hub, request: u64) {
        let list = hub.shared.worker_list.load();
        let instruction = Instruction::WorkerList;
        let header = Header::new(instruction.message_type(), instruction as u16, request);
        self.out.put(|out| {
            transfer::encode(header, &list, out);
        });
    }

    fn answer_switches(&mut self) {
        while let Some((request, state)) = self.transfers.ready() {
            let answer = Return::StateSwitched(state);
            self.out.put(|out| answer.put(request, out));
        }
    }
}

fn data_header(request: u64, is_final: bool) -> Header {
    let instruction = Instruction::Data;
    let mut header = Header::new(instruction.message_type(), instruction as u16, request);
    header.is_final = is_final;
    header
}
