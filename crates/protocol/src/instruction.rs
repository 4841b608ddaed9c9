//! The one list of instructions: number, name, message type, states, session, direction, failure.
//!
//! Code, the tables of `docs/protocol.md` and other languages' bindings follow this list. A number
//! that was published is never used again for something else. Ranges: `0x00__` command state,
//! `0x01__` data transfer state, `0x02__` server returns, `0x03__` control (all of the
//! specification); `0x10__` to `0x13__` the same for extensions; `0x20__` master and worker only.

/// The message type of 4.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum MessageType {
    /// A command.
    Command = 1,
    /// A data request, or data.
    DataTransfer = 2,
    /// What a server returns.
    ServerReturn = 3,
    /// Control: hello, ping, goodbye, and what master and worker tell each other.
    Control = 4,
}

impl MessageType {
    /// From the number on the wire.
    #[inline]
    pub fn from_number(number: u16) -> Option<MessageType> {
        Some(match number {
            1 => MessageType::Command,
            2 => MessageType::DataTransfer,
            3 => MessageType::ServerReturn,
            4 => MessageType::Control,
            _ => return None,
        })
    }
}

/// The states of a client's connection (4.2). Both ends keep it; no message carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The state in which every connection starts.
    Command,
    /// The state in which data can be asked for.
    DataTransfer,
}

impl State {
    /// The argument of `switchState`.
    pub fn name(self) -> &'static str {
        match self {
            State::Command => "command",
            State::DataTransfer => "data",
        }
    }

    /// From the argument of `switchState`.
    pub fn from_name(name: &str) -> Option<State> {
        [State::Command, State::DataTransfer].into_iter().find(|state| state.name() == name)
    }
}

/// In which states an instruction is accepted from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum States {
    /// Only in the command state.
    Command,
    /// Only in the data transfer state.
    Data,
    /// In both.
    Both,
    /// Never: it is not a client's to send.
    Never,
}

impl States {
    /// Whether this includes `state`.
    pub fn allow(self, state: State) -> bool {
        match self {
            States::Command => state == State::Command,
            States::Data => state == State::DataTransfer,
            States::Both => true,
            States::Never => false,
        }
    }
}

macro_rules! instructions {
    ($($number:literal $variant:ident $name:literal $kind:ident $states:ident $session:literal $failure:ident $doc:literal;)*) => {
        /// Everything that can be said.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Instruction {
            $(#[doc = $doc] $variant = $number,)*
        }

        impl Instruction {
            /// The whole list, in the order of the numbers.
            pub const ALL: &'static [Instruction] = &[$(Instruction::$variant,)*];

            /// From the number on the wire.
            pub fn from_number(number: u16) -> Option<Instruction> {
                match number {
                    $($number => Some(Instruction::$variant),)*
                    _ => None,
                }
            }

            /// The name in the specification, or of the extension.
            pub fn name(self) -> &'static str {
                match self { $(Instruction::$variant => $name,)* }
            }

            /// The message type it travels under.
            pub fn message_type(self) -> MessageType {
                match self { $(Instruction::$variant => MessageType::$kind,)* }
            }

            /// The states in which a client may send it.
            pub fn states(self) -> States {
                match self { $(Instruction::$variant => States::$states,)* }
            }

            /// Whether a client's message needs an active session in its header.
            pub fn needs_session(self) -> bool {
                match self { $(Instruction::$variant => $session,)* }
            }

            /// The failure return of a request; of anything else `commandFail`.
            pub fn failure(self) -> Instruction {
                match self { $(Instruction::$variant => Instruction::$failure,)* }
            }

            /// One line that says what it is.
            pub fn doc(self) -> &'static str {
                match self { $(Instruction::$variant => $doc,)* }
            }
        }
    };
}

instructions! {
    // number, Variant, "name", message type, states, session, failure return, doc
    0x0001 Login "login" Command Command false LoginFail "`login(username, hashedPass, isExpirable)` (4.6.1)";
    0x0002 LoginSession "loginSession" Command Command true LoginFail "`login(sessionID)` (4.6.2)";
    0x0003 Register "register" Command Command false RegisterFail "`register(username, email, hashedPass)` (4.6.3)";
    0x0004 PurchaseAsset "purchaseAsset" Command Command true PurchaseFail "`purchaseAsset(name, quantity, clientOrderID)` (4.6.4)";
    0x0005 SellAsset "sellAsset" Command Command true SellFail "`sellAsset(name, quantity, clientOrderID)` (4.6.5)";
    0x0006 SwitchState "switchState" Command Both true StateSwitchFail "`switchState(state)` (4.6.6)";
    0x000A GetWorkerList "getWorkerList" Command Both false CommandFail "`getWorkerList()`: the list of workers (3.1.5); also asked of the master";

    0x0101 GetAssetInfo "getAssetInfo" DataTransfer Data true DataFail "`getAssetInfo(asset)` (4.6.7)";
    0x0102 GetAssetValueCurrent "getAssetValueCurrent" DataTransfer Data true DataFail "`getAssetValueCurrent(asset)` (4.6.8)";
    0x0103 GetAssetValueDay "getAssetValueDay" DataTransfer Data true DataFail "`getAssetValueDay(asset, date)` (4.6.9)";
    0x0104 GetAssetValueWeek "getAssetValueWeek" DataTransfer Data true DataFail "`getAssetValueWeek(asset, date)` (4.6.10)";
    0x0105 GetAssetValueMonth "getAssetValueMonth" DataTransfer Data true DataFail "`getAssetValueMonth(asset, date)` (4.6.11)";
    0x0106 GetAssetValueYear "getAssetValueYear" DataTransfer Data true DataFail "`getAssetValueYear(asset, date)` (4.6.12)";
    0x0107 GetAssetValueAllTime "getAssetValueAllTime" DataTransfer Data true DataFail "`getAssetValueAllTime(asset)` (4.6.13)";
    0x0108 GetAssetValuePredicted "getAssetValuePredicted" DataTransfer Data true DataFail "`getAssetValuePredicted(asset, days)`: predicted future asset value (4.2.2)";
    0x0109 GetUserInfo "getUserInfo" DataTransfer Data true DataFail "`getUserInfo(username)` (4.6.14)";
    0x010A GetUserPortfolio "getUserPortfolio" DataTransfer Data true DataFail "`getUserPortfolio(username)` (4.6.15)";
    0x010B GetUserTransactionHistory "getUserTransactionHistory" DataTransfer Data true DataFail "`getUserTransactionHistory(username)` (4.6.16)";

    0x0201 LoginFail "loginFail" ServerReturn Never false CommandFail "A login failed (4.6.17)";
    0x0202 SessionId "sessionID" ServerReturn Never false CommandFail "An active session ID (4.6.18)";
    0x0203 RegisterSuccess "registerSuccess" ServerReturn Never false CommandFail "A register action succeeded (4.6.19)";
    0x0204 RegisterFail "registerFail" ServerReturn Never false CommandFail "A register action failed (4.6.20)";
    0x0205 PurchaseSuccess "purchaseSuccess" ServerReturn Never false CommandFail "A purchase was filled (4.6.21)";
    0x0206 PurchaseFail "purchaseFail" ServerReturn Never false CommandFail "A purchase failed (4.6.22)";
    0x0207 SellSuccess "sellSuccess" ServerReturn Never false CommandFail "A sale was filled";
    0x0208 SellFail "sellFail" ServerReturn Never false CommandFail "A sale failed";
    0x0209 StateSwitchSuccess "stateSwitchSuccess" ServerReturn Never false CommandFail "The state was switched";
    0x020A StateSwitchFail "stateSwitchFail" ServerReturn Never false CommandFail "The state was not switched";
    0x020B Data "data" DataTransfer Never false CommandFail "Data, packet n of max (4.7)";
    0x020C DataFail "dataFail" ServerReturn Never false CommandFail "A data request failed";
    0x020D WorkerList "workerList" DataTransfer Never false CommandFail "The list of workers, packet n of max (3.1.5)";

    0x0301 Hello "hello" Control Both false CommandFail "`hello(version)`: who is there?";
    0x0302 Welcome "welcome" Control Never false CommandFail "The answer to `hello`";
    0x0303 Ping "ping" Control Both false CommandFail "`ping(text)`: are you there?";
    0x0304 Pong "pong" Control Never false CommandFail "The answer to `ping`, with its text";
    0x0305 Goodbye "goodbye" Control Both false CommandFail "`goodbye(reason)`: this end will close the connection";

    0x1001 CancelOrder "cancelOrder" Command Command true CancelFail "`cancelOrder(clientOrderID)`";
    0x1002 Logout "logout" Command Command true CommandFail "`logout()`: ends the session";
    0x1003 LogoutEverywhere "logoutEverywhere" Command Command true CommandFail "`logoutEverywhere()`: ends all sessions of the account";
    0x1004 ChangePassword "changePassword" Command Command true PasswordFail "`changePassword(oldHashedPass, newHashedPass)`: ends all other sessions";
    0x1010 SubscribeAssets "subscribeAssets" Command Both true SubscribeFail "`subscribeAssets(symbols)`: `assetValues` will come of these, or of all (`*`)";
    0x1011 UnsubscribeAssets "unsubscribeAssets" Command Both true SubscribeFail "`unsubscribeAssets(symbols)`: no more of these, or of any (`*`)";
    0x1012 SubscribeOrders "subscribeOrders" Command Both true SubscribeFail "`subscribeOrders(cursor)`: `orderEvent` will come of the account's orders";

    0x1101 GetAssetBars "getAssetBars" DataTransfer Data true DataFail "`getAssetBars(symbol, resolution, from, to)`";
    0x1102 GetAssetList "getAssetList" DataTransfer Data true DataFail "`getAssetList()`: all assets with their latest values";
    0x1103 GetUserOrders "getUserOrders" DataTransfer Data true DataFail "`getUserOrders(username)`: open and recent orders";
    0x1104 GetOrder "getOrder" DataTransfer Data true DataFail "`getOrder(clientOrderID)`: the present state of one's own order";

    0x1201 OrderQueued "orderQueued" ServerReturn Never false CommandFail "The order is durable and waits for its price";
    0x1202 CancelSuccess "cancelSuccess" ServerReturn Never false CommandFail "The order will not happen";
    0x1203 CancelFail "cancelFail" ServerReturn Never false CommandFail "The order was not cancelled";
    0x1204 LogoutSuccess "logoutSuccess" ServerReturn Never false CommandFail "The session has ended";
    0x1205 CommandFail "commandFail" ServerReturn Never false CommandFail "A message was refused that has no failure return of its own";
    0x1206 PasswordChanged "passwordChanged" ServerReturn Never false CommandFail "The password was changed";
    0x1207 PasswordFail "passwordFail" ServerReturn Never false CommandFail "The password was not changed";
    0x1208 Subscribed "subscribed" ServerReturn Never false CommandFail "A subscription was made or changed";
    0x1209 SubscribeFail "subscribeFail" ServerReturn Never false CommandFail "A subscription was not made, or has ended";

    0x1301 AssetValues "assetValues" Control Never false CommandFail "Values that have changed, of assets that were subscribed to";
    0x1302 OrderEvent "orderEvent" Control Never false CommandFail "An order of the account was placed, or has got its final state";

    0x2001 LinkHello "linkHello" Control Never false LinkRefused "Worker to master: who it is";
    0x2002 LinkWelcome "linkWelcome" Control Never false CommandFail "Master to worker: accepted";
    0x2003 LinkRefused "linkRefused" Control Never false CommandFail "Master to worker: refused, with the reason";
    0x2004 Snapshot "snapshot" Control Never false CommandFail "Master to worker: the answer to `snapshotDifference`, packet n of max";
    0x2005 SessionPresence "sessionPresence" Control Never false CommandFail "Worker to master: a session's first connection opened or its last closed";
    0x2006 SessionEnded "sessionEnded" Control Never false CommandFail "Master to worker: forget a session";
    0x2007 WorkerStatus "workerStatus" Control Never false CommandFail "Worker to master: how it is";
    0x2008 LinkOpen "linkOpen" Control Never false LinkRefused "Worker to master: the first message of the proof";
    0x2009 LinkChallenge "linkChallenge" Control Never false CommandFail "Master to worker: its proof, sealed for the worker";
    0x200A LinkProof "linkProof" Control Never false LinkRefused "Worker to master: its proof, sealed for the master";
    0x200B LinkProven "linkProven" Control Never false CommandFail "Master to worker: both are who they say";
    0x200C LinkPing "linkPing" Control Never false CommandFail "Worker to master: are you there, and what is the time?";
    0x200D LinkPong "linkPong" Control Never false CommandFail "Master to worker: the answer to `linkPing`";
    0x200E SnapshotStep "snapshotStep" Control Never false CommandFail "Master to worker: what a settlement brought, packet n of max";
    0x200F SnapshotDifference "snapshotDifference" Control Never false CommandFail "Worker to master: which prices it has, and wants those that are newer";
    0x2010 StreamEnded "streamEnded" Control Never false CommandFail "Worker to master: nobody listens to this subscription any more";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique_and_found_again() {
        let numbers: HashSet<u16> = Instruction::ALL.iter().map(|i| *i as u16).collect();
        let names: HashSet<&str> = Instruction::ALL.iter().map(|i| i.name()).collect();
        assert_eq!(numbers.len(), Instruction::ALL.len());
        assert_eq!(names.len(), Instruction::ALL.len());
        for instruction in Instruction::ALL {
            assert_eq!(Instruction::from_number(*instruction as u16), Some(*instruction));
        }
        assert_eq!(Instruction::from_number(0), None);
    }

    #[test]
    fn every_request_has_a_failure_return_that_a_server_sends() {
        for instruction in Instruction::ALL.iter().filter(|i| i.states() != States::Never) {
            let failure = instruction.failure();
            assert_eq!(failure.message_type(), MessageType::ServerReturn, "{instruction:?}");
            assert!(failure.name().ends_with("Fail"), "{instruction:?}");
        }
    }
}
