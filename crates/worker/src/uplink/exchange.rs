//! What is said on the link, without I/O: bytes to write come out of [`Exchange::take_output`],
//! answers to clients out of [`Exchange::take_deliveries`].
//!
//! Every request that a client thread hands in gets exactly one first answer, whatever happens to
//! the link. Many clients with the same question are one question to the master.

mod streams;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use papertrader_core::time::{MarketTime, WallTime};
use papertrader_node::{debug, error, info, warn};
use papertrader_protocol::frame::{Frame, Header, LinkHeader};
use papertrader_protocol::instruction::Instruction;
use papertrader_protocol::link::{
    LinkHello, LinkPing, LinkPong, LinkWelcome, SessionEnded, SessionPresence, WorkerStatus,
};
use papertrader_protocol::returns::Return;
use papertrader_protocol::transfer::Assembly;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Reason, SessionId, args, transfer};

use super::orders::{Judged, Orders, Verdict};
use super::snapshots::Snapshots;
use super::{Ask, Content, Delivery, LinkError, Route, Step};
use crate::cache::history::{Answer, Question};
use crate::driver::Shared;
use streams::Streams;

/// The longest snapshot or list of workers, in bytes.
const MAX_PUSH: usize = 256 * 1024 * 1024;

/// Request numbers on the link begin here. An order's is its sequence, nanoseconds since 1970, which
/// stays below: it needs no place among what is pending.
const FIRST: u64 = 1 << 63;

/// The address of no client.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A request of this link, but for an order, that has no (final) answer yet.
#[derive(Debug)]
enum Pending {
    /// A client's own.
    Plain { ask: Ask, answer: Coming },
    /// One question for those who asked it.
    Shared { question: Question, waiting: Vec<Waiting>, answer: Coming, ask: Box<Ask> },
    /// The worker's own: a session on a new link.
    Resume { session: SessionId },
}

/// An answer on its way.
#[derive(Debug)]
struct Coming {
    data: Assembly,
    /// When the master was last heard of it.
    heard: WallTime,
}

#[derive(Debug)]
struct Waiting {
    route: Route,
    instruction: Instruction,
    /// The market's time that its client may have seen: the answer must not be older.
    seen: MarketTime,
}

/// The state of the conversation with the master, over all links.
pub(super) struct Exchange {
    shared: Arc<Shared>,
    output: Vec<u8>,
    deliveries: Vec<Delivery>,
    /// The master has said welcome on the present link.
    up: bool,
    next_number: u64,
    pending: HashMap<u64, Pending>,
    /// Those that the master was asked and has not answered.
    questions: HashMap<Question, u64>,
    orders: Orders,
    streams: Streams,
    gave_up: bool,
    /// The master has refused this worker since the last link that was up.
    refused: bool,
    /// The master's clock minus this worker's, in nanoseconds.
    clock_offset: i64,
    /// How long the last ping took, in nanoseconds.
    round_trip: i64,
    snapshots: Snapshots,
    worker_list: Assembly,
}

impl Exchange {
    pub(super) fn new(shared: Arc<Shared>) -> Exchange {
        Exchange {
            shared,
            output: Vec::new(),
            deliveries: Vec::new(),
            up: false,
            next_number: FIRST,
            pending: HashMap::new(),
            questions: HashMap::new(),
            orders: Orders::default(),
            streams: Streams::default(),
            gave_up: false,
            refused: false,
            clock_offset: 0,
            round_trip: 0,
            snapshots: Snapshots::default(),
            worker_list: Assembly::default(),
        }
    }

    /// Whether the master has accepted this worker on the present link.
    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// Bytes that wait to be taken.
    pub(super) fn unsent(&self) -> usize {
        self.output.len()
    }

    /// Bytes to write to the master, in order.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Answers for clients, in order.
    pub(super) fn take_deliveries(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }

    /// When [`Exchange::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<WallTime> {
        Some(self.orders.next_deadline()?.plus_nanos(self.grace()))
    }

    /// How long after its deadline an order is answered here. With a link the master has the word: what
    /// it was still asked in time may be on its way to the disk.
    fn grace(&self) -> i64 {
        if self.up { nanos(self.shared.config.order_wait / 5) } else { 0 }
    }

    /// A link was made: the first words on it.
    pub(super) fn opened(&mut self) {
        let config = &self.shared.config;
        let hello = LinkHello {
            worker: config.worker(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: self.shared.advertised.clone(),
            web: config.web.clone(),
            fingerprint: config.fingerprint(),
            region: config.region.clone().unwrap_or_default(),
            clock: self.shared.clock.now(),
        };
        // The one message without a link header: it says who the worker is.
        header(Instruction::LinkHello, 0).encode(&hello.to_bytes(), &mut self.output);
    }

    /// The link was lost: everything in flight is answered, but the orders wait.
    pub(super) fn lost(&mut self, now: WallTime) {
        self.up = false;
        self.output = Vec::new();
        self.snapshots = Snapshots::default();
        self.worker_list = Assembly::default();
        self.questions.clear();
        for (_, pending) in std::mem::take(&mut self.pending) {
            self.drop_pending(pending);
        }
        self.drop_unaccepted_streams();
        self.expire(now);
    }

    /// Answers a request that was sent and that the master will not answer.
    fn drop_pending(&mut self, pending: Pending) {
        match pending {
            Pending::Plain { ask, .. } => {
                let reason = if changes_something(ask.instruction) {
                    Reason::OutcomeUnknown
                } else {
                    Reason::Unavailable
                };
                self.refuse(ask.route, ask.instruction, Step::Only, reason);
            }
            Pending::Shared { question, waiting, .. } => {
                self.questions.remove(&question);
                for one in waiting {
                    self.refuse(one.route, one.instruction, Step::Only, Reason::Unavailable);
                }
            }
            Pending::Resume { .. } => {}
        }
    }

    /// Answers the orders whose time is over: there is no link, or the master says nothing of them.
    pub(super) fn expire(&mut self, now: WallTime) {
        let expired = self.orders.expire(now.plus_nanos(-self.grace()));
        if self.up && !expired.is_empty() {
            warn!(orders = expired.len(), "the master says nothing of orders whose time is over");
        }
        self.refuse_orders(expired);
    }

    /// The end: orders without an answer are answered as far as it is known.
    pub(super) fn give_up(&mut self) {
        self.gave_up = true;
        let left = self.orders.abandon_all(Reason::DeadlinePassed);
        self.refuse_orders(left);
    }

    /// The master refuses this worker: another one must be asked, and nothing waits any longer.
    pub(super) fn refused(&mut self) {
        self.refused = true;
        let left = self.orders.abandon_all(Reason::Unavailable);
        self.refuse_orders(left);
    }

    fn refuse_orders(&mut self, orders: Vec<(Ask, Reason)>) {
        for (ask, reason) in orders {
            self.refuse(ask.route, ask.instruction, Step::Only, reason);
        }
    }

    /// Takes a request of a client.
    pub(super) fn take(&mut self, ask: Ask) {
        if matches!(ask.instruction, Instruction::PurchaseAsset | Instruction::SellAsset) {
            self.take_order(ask);
        } else if !self.up {
            self.refuse(ask.route, ask.instruction, Step::Only, Reason::Unavailable);
        } else if let Some(question) = ask.question {
            self.take_question(ask, question);
        } else if ask.instruction == Instruction::SubscribeOrders {
            self.take_stream(ask);
        } else {
            let number = self.number();
            self.send(number, &ask, WallTime(0));
            let answer = self.coming();
            self.pending.insert(number, Pending::Plain { ask, answer });
        }
    }

    fn take_order(&mut self, ask: Ask) {
        if self.gave_up {
            return self.refuse(ask.route, ask.instruction, Step::Only, Reason::DeadlinePassed);
        }
        if self.refused {
            return self.refuse(ask.route, ask.instruction, Step::Only, Reason::Unavailable);
        }
        if self.orders.len() >= self.shared.config.max_orders {
            self.orders.sweep();
            if self.orders.len() >= self.shared.config.max_orders {
                return self.refuse(ask.route, ask.instruction, Step::Only, Reason::Busy);
            }
        }
        let deadline = ask.received_at.plus_nanos(nanos(self.shared.config.order_wait));
        let now = self.shared.clock.now();
        if deadline <= now {
            return self.refuse(ask.route, ask.instruction, Step::Only, Reason::DeadlinePassed);
        }
        let sequence = ask.sequence;
        self.orders.insert(ask, deadline);
        if self.up {
            self.send_order(sequence);
        }
    }

    fn take_question(&mut self, ask: Ask, question: Question) {
        let prices = self.shared.prices.load_full();
        // The answer may have come while this request was on its way here.
        let kept = prices
            .as_ref()
            .and_then(|prices| self.shared.history.get(&question, prices, &self.shared.outgoing));
        if let Some(answer) = kept {
            return self.deliver(ask.route, Step::Only, Content::Data(answer));
        }
        let seen = prices.map_or(MarketTime(i64::MIN), |prices| prices.market);
        let waiting = Waiting { route: ask.route.clone(), instruction: ask.instruction, seen };
        if let Some(number) = self.questions.get(&question)
            && let Some(Pending::Shared { waiting: all, .. }) = self.pending.get_mut(number)
        {
            all.push(waiting);
            return;
        }
        // The answer is for whoever asks: no session stands in the question.
        let ask = Box::new(Ask { session: SessionId::NONE, ..ask });
        self.ask_for(question, ask, vec![waiting]);
    }

    fn ask_for(&mut self, question: Question, ask: Box<Ask>, waiting: Vec<Waiting>) {
        self.shared.history.misses.add_one();
        self.snapshots.watch(question.symbol());
        let number = self.number();
        self.send(number, &ask, WallTime(0));
        let answer = self.coming();
        self.questions.insert(question, number);
        self.pending.insert(number, Pending::Shared { question, waiting, answer, ask });
    }

    /// Tells the master which sessions have got or lost their clients here.
    pub(super) fn tell_presence(&mut self) {
        if self.up {
            for (session, present) in self.shared.sessions.take_changes() {
                self.control(Instruction::SessionPresence, &SessionPresence { session, present });
            }
        }
    }

    /// What is said every few seconds.
    pub(super) fn tick(&mut self) {
        let now = self.shared.clock.now();
        self.shared.sessions.sweep(now);
        self.orders.sweep();
        let patience = nanos(self.shared.config.request_timeout);
        let silent: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| match pending {
                Pending::Plain { answer, .. } | Pending::Shared { answer, .. } => {
                    answer.heard.plus_nanos(patience) <= now
                }
                Pending::Resume { .. } => false,
            })
            .map(|(number, _)| *number)
            .collect();
        for number in silent {
            warn!(number, "the master does not answer a request");
            if let Some(pending) = self.pending.remove(&number) {
                self.drop_pending(pending);
            }
        }
        if self.up {
            for number in self.streams.take_dead() {
                self.end_stream(number);
            }
            self.resume_more();
            self.report();
        }
    }

    /// Says how this worker is, and asks whether the master is there.
    fn report(&mut self) {
        self.control(Instruction::WorkerStatus, &self.status());
        // Stamped last, so that it measures nothing but the way.
        self.control(Instruction::LinkPing, &LinkPing { sent: self.shared.clock.now() });
    }

    fn status(&self) -> WorkerStatus {
        let shared = &self.shared;
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        WorkerStatus {
            started: shared.started,
            clients: small(shared.clients()),
            load: shared.load(self.orders.len()),
            sessions: small(shared.sessions.len()),
            orders: small(self.orders.unanswered()),
            cache_bytes: shared.history.bytes(),
            cache_limit: shared.config.cache_bytes,
            cache_hits: shared.history.hits.get(),
            cache_misses: shared.history.misses.get(),
            cache_evictions: shared.history.evictions.get(),
            outgoing_bytes: shared.outgoing_bytes(),
            refused_connections: shared.counters.refused.get(),
            cut_connections: shared.counters.cut.get(),
            throttled_requests: shared.counters.throttled.get(),
            round_trip: self.round_trip,
            clock_offset: self.clock_offset,
        }
    }

    /// The last bytes on a link that this worker closes.
    pub(super) fn last_words(&mut self) -> Vec<u8> {
        self.tell_presence();
        let mut goodbye = self.own_header(Instruction::Goodbye);
        goodbye.argument_count = 1;
        goodbye.encode(Reason::ShuttingDown.code().as_bytes(), &mut self.output);
        self.take_output()
    }

    /// Takes a frame of the master.
    pub(super) fn received(&mut self, frame: &Frame<'_>) -> Result<(), LinkError> {
        use Instruction as I;
        let instruction = I::from_number(frame.header.instruction);
        match instruction {
            Some(I::LinkWelcome) => self.welcomed(frame),
            Some(I::LinkRefused) => Err(LinkError::Refused(words(frame))),
            Some(I::Goodbye) => Err(LinkError::Goodbye(words(frame))),
            _ if !self.up => Err(LinkError::Malformed("first message")),
            Some(instruction @ (I::Snapshot | I::SnapshotStep)) => {
                self.snapshot(instruction, frame)
            }
            Some(I::WorkerList) => self.worker_list(frame),
            Some(I::SessionEnded) => {
                let ended = SessionEnded::from_bytes(frame.data);
                let ended = ended.map_err(|_| LinkError::Malformed("sessionEnded"))?;
                self.shared.sessions.end(ended.session);
                self.end_streams_of(ended.session);
                Ok(())
            }
            Some(I::LinkPong) => {
                let pong = LinkPong::from_bytes(frame.data);
                self.pong(&pong.map_err(|_| LinkError::Malformed("linkPong"))?);
                Ok(())
            }
            Some(I::Ping) => {
                let mut pong = self.own_header(I::Pong);
                pong.request = frame.header.request;
                pong.argument_count = 1;
                pong.encode(frame.data, &mut self.output);
                Ok(())
            }
            Some(instruction) => {
                self.answered(instruction, frame);
                Ok(())
            }
            None => {
                debug!(number = frame.header.instruction, "the master says something unknown");
                Ok(())
            }
        }
    }

    fn welcomed(&mut self, frame: &Frame<'_>) -> Result<(), LinkError> {
        let welcome = LinkWelcome::from_bytes(frame.data);
        let welcome = welcome.map_err(|_| LinkError::Malformed("linkWelcome"))?;
        let now = self.shared.clock.now();
        self.clock_offset = welcome.clock.0.saturating_sub(now.0);
        info!(
            name = %welcome.name,
            deployment = %welcome.deployment,
            clock_offset_ns = self.clock_offset,
            "the link to the master is up"
        );
        let before = self.shared.welcome.swap(Some(Arc::new(welcome.clone())));
        if before.is_some_and(|before| before.deployment != welcome.deployment) {
            warn!("the master is of another deployment: all sessions and the cache are dropped");
            self.shared.sessions.end_all();
            self.shared.history.clear();
        }
        self.up = true;
        self.refused = false;
        self.shared.refused.send_replace(false);
        self.ask_prices();
        for (session, client) in self.shared.sessions.resume(now) {
            let number = self.number();
            let mut header = self.own_header(Instruction::LoginSession);
            header.request = number;
            header.session = session;
            if let Some(link) = &mut header.link {
                link.client = client;
            }
            header.encode(&[], &mut self.output);
            self.pending.insert(number, Pending::Resume { session });
        }
        for sequence in self.orders.take_up() {
            self.send_order(sequence);
        }
        self.resume_streams();
        self.report();
        Ok(())
    }

    /// The clocks are compared anew each time: either may be set while the link lives.
    fn pong(&mut self, pong: &LinkPong) {
        let (sent, now) = (pong.sent.0, self.shared.clock.now().0);
        self.round_trip = now.saturating_sub(sent).max(0);
        let half_way = sent.saturating_add(self.round_trip / 2);
        self.clock_offset = pong.clock.0.saturating_sub(half_way);
    }

    /// What the master says of prices.
    fn snapshot(&mut self, instruction: Instruction, frame: &Frame<'_>) -> Result<(), LinkError> {
        let must_ask = match instruction {
            Instruction::SnapshotStep => self.snapshots.stepped(frame, &self.shared)?,
            _ => self.snapshots.pushed(frame, &self.shared)?,
        };
        if must_ask {
            self.ask_prices();
        }
        Ok(())
    }

    fn ask_prices(&mut self) {
        let have = self.snapshots.ask(&self.shared);
        self.control(Instruction::SnapshotDifference, &have);
    }

    fn worker_list(&mut self, frame: &Frame<'_>) -> Result<(), LinkError> {
        let malformed = |_| LinkError::Malformed("workerList");
        if let Some(data) = assemble(&mut self.worker_list, frame).map_err(malformed)? {
            self.shared.worker_list.store(Arc::new(data));
        }
        Ok(())
    }

    /// An answer to one of this link's requests.
    fn answered(&mut self, instruction: Instruction, frame: &Frame<'_>) {
        let number = frame.header.request;
        if number < FIRST && self.order_answered(number, instruction, frame) {
            return;
        }
        if self.stream_told(number, instruction, frame) {
            return;
        }
        match self.pending.get_mut(&number) {
            None => {
                debug!(number, name = instruction.name(), "an answer that nobody waits for");
                // A session that comes too late has no client here: the master must hear so.
                if let Ok(Some(Return::Session(grant))) = Return::parse(frame) {
                    drop(self.shared.sessions.grant(&grant, NOBODY));
                }
            }
            Some(Pending::Resume { session }) => {
                let session = *session;
                self.pending.remove(&number);
                match Return::parse(frame) {
                    Ok(Some(Return::Session(grant))) => self.shared.sessions.confirm(&grant),
                    _ => self.shared.sessions.end(session),
                }
            }
            Some(
                Pending::Plain { answer: Coming { data, heard }, .. }
                | Pending::Shared { answer: Coming { data, heard }, .. },
            ) if instruction == Instruction::Data => {
                *heard = self.shared.clock.now();
                let limit = self.shared.config.max_answer_bytes;
                let whole = match data.push(frame, limit) {
                    Ok(_) => match std::mem::take(data).finished() {
                        Ok(whole) => Ok(whole),
                        Err(unfinished) => {
                            *data = unfinished;
                            return;
                        }
                    },
                    Err(transfer::TransferError::TooLarge(_)) => Err(Reason::RangeTooLarge),
                    Err(error) => {
                        error!(%error, "the master's packets do not follow each other");
                        Err(Reason::Unavailable)
                    }
                };
                let is_final = frame.header.is_final;
                let outgoing = &self.shared.outgoing;
                let answer = whole.map(|data| Answer { data: outgoing.share(data), is_final });
                self.data_answered(number, answer);
            }
            Some(Pending::Plain { .. } | Pending::Shared { .. }) => {
                self.returned(number, instruction, frame);
            }
        }
    }

    fn data_answered(&mut self, number: u64, answer: Result<Answer, Reason>) {
        match self.pending.remove(&number) {
            Some(Pending::Plain { ask, .. }) => match answer {
                Ok(answer) => self.deliver(ask.route, Step::Only, Content::Data(answer)),
                Err(reason) => self.refuse(ask.route, ask.instruction, Step::Only, reason),
            },
            Some(Pending::Shared { question, waiting, ask, .. }) => {
                self.questions.remove(&question);
                match answer {
                    Ok(answer) => self.question_answered(question, answer, waiting, ask),
                    Err(reason) => {
                        for one in waiting {
                            self.refuse(one.route, one.instruction, Step::Only, reason);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Gives an answer to all who wait for it, unless it is older than what they have seen: for them
    /// it is asked for once more.
    fn question_answered(
        &mut self,
        question: Question,
        answer: Answer,
        waiting: Vec<Waiting>,
        ask: Box<Ask>,
    ) {
        // What is here may be of another start of the master, until the difference has come.
        let prices = self.shared.prices.load_full().filter(|_| !self.snapshots.is_asked());
        let (answer, market) = match prices {
            Some(prices) => {
                self.shared.history.take(&question, answer, &prices, &self.shared.outgoing)
            }
            None => (answer, MarketTime(i64::MAX)),
        };
        let mut again = Vec::new();
        for mut one in waiting {
            if one.seen <= market {
                self.deliver(one.route, Step::Only, Content::Data(answer.clone()));
            } else {
                // Whatever comes then is as new as can be had.
                one.seen = MarketTime(i64::MIN);
                again.push(one);
            }
        }
        if !again.is_empty() {
            self.ask_for(question, ask, again);
        }
    }

    /// A return that is not data, to something that is not an order.
    fn returned(&mut self, number: u64, instruction: Instruction, frame: &Frame<'_>) {
        match self.pending.remove(&number) {
            Some(Pending::Plain { ask, .. }) => {
                self.forget_if_unknown(ask.session, refusal(instruction, frame));
                let content = match instruction {
                    Instruction::SessionId => match Return::parse(frame) {
                        Ok(Some(Return::Session(grant))) => {
                            let attachment = self.shared.sessions.grant(&grant, ask.client);
                            Content::Session(grant, attachment)
                        }
                        _ => {
                            error!("the master's sessionID is not as the protocol says");
                            Content::Refused(ask.instruction.failure(), Reason::Unavailable)
                        }
                    },
                    Instruction::LogoutSuccess => {
                        self.shared.sessions.end(ask.session);
                        as_it_came(instruction, frame)
                    }
                    _ => as_it_came(instruction, frame),
                };
                self.deliver(ask.route, Step::Only, content);
            }
            Some(Pending::Shared { question, waiting, .. }) => {
                self.questions.remove(&question);
                for one in waiting {
                    self.deliver(one.route, Step::Only, as_it_came(instruction, frame));
                }
            }
            _ => {}
        }
    }

    /// False if no such order is in the cache any more.
    fn order_answered(
        &mut self,
        sequence: u64,
        instruction: Instruction,
        frame: &Frame<'_>,
    ) -> bool {
        let refusal = refusal(instruction, frame);
        let Some(judged) = self.orders.judge(sequence, instruction, refusal) else { return false };
        let Judged { verdict, route, asked, session } = judged;
        self.forget_if_unknown(session, refusal);
        match verdict {
            Verdict::Pass(step) => self.deliver(route, step, as_it_came(instruction, frame)),
            Verdict::Instead(step, reason) => self.refuse(route, asked, step, reason),
            Verdict::Forget => self.deliver(route, Step::Outcome, Content::Nothing),
            Verdict::Silent => {}
        }
        true
    }

    /// The master does not honour a session any more: neither does the worker.
    fn forget_if_unknown(&self, session: SessionId, refusal: Option<Reason>) {
        if matches!(refusal, Some(Reason::SessionUnknown | Reason::SessionExpired)) {
            self.shared.sessions.end(session);
        }
    }

    fn send_order(&mut self, sequence: u64) {
        let wait = nanos(self.shared.config.order_wait);
        let Some(order) = self.orders.send(sequence) else { return };
        // In the master's clock, as far as it is known here.
        let deadline = order.ask.received_at.plus_nanos(wait).plus_nanos(self.clock_offset);
        let header = client_header(&self.shared, sequence, &order.ask, deadline);
        header.encode(&order.ask.data, &mut self.output);
    }

    fn send(&mut self, number: u64, ask: &Ask, deadline: WallTime) {
        let header = client_header(&self.shared, number, ask, deadline);
        header.encode(&ask.data, &mut self.output);
    }

    fn control(&mut self, instruction: Instruction, content: &impl Wire) {
        self.own_header(instruction).encode(&content.to_bytes(), &mut self.output);
    }

    /// The header of what the worker says for itself: every frame carries its UUID (4.1).
    fn own_header(&self, instruction: Instruction) -> Header {
        let now = self.shared.clock.now();
        let link = LinkHeader {
            worker: self.shared.config.worker(),
            received_at: now,
            sequence: u64::try_from(now.0).unwrap_or(0),
            deadline: WallTime(0),
            client: NOBODY,
        };
        Header { link: Some(link), ..header(instruction, 0) }
    }

    fn coming(&self) -> Coming {
        Coming { data: Assembly::default(), heard: self.shared.clock.now() }
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    fn refuse(&mut self, route: Route, instruction: Instruction, step: Step, reason: Reason) {
        self.deliver(route, step, Content::Refused(instruction.failure(), reason));
    }

    fn deliver(&mut self, route: Route, step: Step, content: Content) {
        self.deliveries.push(Delivery { route, step, content });
    }
}

fn header(instruction: Instruction, number: u64) -> Header {
    Header::new(instruction.message_type(), instruction as u16, number)
}

fn client_header(shared: &Shared, number: u64, ask: &Ask, deadline: WallTime) -> Header {
    let mut header = header(ask.instruction, number);
    header.argument_count = ask.arguments;
    header.session = ask.session;
    header.link = Some(LinkHeader {
        worker: shared.config.worker(),
        received_at: ask.received_at,
        sequence: ask.sequence,
        deadline,
        client: ask.client,
    });
    header
}

/// Whether it matters to a client that the master may have done it without a word: not so if it
/// only asks, nor if it can log in again.
fn changes_something(instruction: Instruction) -> bool {
    use Instruction as I;
    matches!(
        instruction,
        I::Register | I::ChangePassword | I::Logout | I::LogoutEverywhere | I::CancelOrder
    )
}

/// The reason of a failure return. What is certainly none is not parsed: an order has two of these.
fn refusal(instruction: Instruction, frame: &Frame<'_>) -> Option<Reason> {
    use Instruction as I;
    if matches!(instruction, I::OrderQueued | I::PurchaseSuccess | I::SellSuccess) {
        return None;
    }
    match Return::parse(frame) {
        Ok(Some(Return::Failed(_, failure))) => Some(failure.reason),
        _ => None,
    }
}

fn as_it_came(instruction: Instruction, frame: &Frame<'_>) -> Content {
    let arguments = frame.header.argument_count;
    Content::Return { instruction, arguments, data: frame.data.into() }
}

/// Takes a packet of a push; the whole push after its last packet.
pub(super) fn assemble(
    assembly: &mut Assembly,
    frame: &Frame<'_>,
) -> Result<Option<Vec<u8>>, transfer::TransferError> {
    assembly.push(frame, MAX_PUSH)?;
    match std::mem::take(assembly).finished() {
        Ok(data) => Ok(Some(data)),
        Err(unfinished) => {
            *assembly = unfinished;
            Ok(None)
        }
    }
}

/// The words of a `code text` message, for the log.
fn words(frame: &Frame<'_>) -> String {
    match args::split(frame.data, frame.header.argument_count) {
        Ok(arguments) => args::join(&arguments),
        Err(_) => "(no words)".to_owned(),
    }
}

fn nanos(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
