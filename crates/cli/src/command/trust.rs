//! `trust`: looks at the certificate of a server, and remembers it if the user wants that.
//!
//! Nothing but a TLS handshake is sent. Invariant: what is remembered is what was seen, and either
//! the user gave its fingerprint or answered `yes` at a terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use papertrader_client::{Address, Client, ClientError, Fingerprint, Options};

use super::Context;
use crate::error::CliError;
use crate::output::json;

/// The most bytes of an answer that are read.
const LONGEST_ANSWER: u64 = 100;

pub(super) async fn trust(
    context: &Context<'_>,
    server: &str,
    given: Option<&str>,
) -> Result<(), CliError> {
    let given: Option<Fingerprint> =
        given.map(str::parse).transpose().map_err(CliError::NotAFingerprint)?;
    let address: Address = server
        .parse()
        .map_err(|problem| ClientError::Address { address: server.to_owned(), problem })?;
    let place = address.place();
    let before = context.known.load()?.get(&place).copied();
    let seen = Client::certificate_of(server, &Options::default()).await?;
    match given {
        Some(given) if given == seen => {}
        Some(given) => return Err(CliError::FingerprintDiffers { server: place, given, seen }),
        None if before == Some(seen) => {}
        None => {
            let output = context.output;
            if output.json || !output.notes || !io::stdin().is_terminal() {
                return Err(CliError::FingerprintNeeded { server: place, seen });
            }
            let question = question(&place, seen, before);
            if !agrees(&question, &mut io::stderr(), &mut io::stdin().lock())? {
                return Err(CliError::NotTrusted { server: place });
            }
        }
    }
    context.known.trust(&place, seen)?;
    let output = context.output;
    if output.json {
        return output.object(&json::Trusted::new(place, seen, before));
    }
    output.text(&format!("{place} is trusted with the certificate SHA-256 {seen}"))
}

fn question(place: &str, seen: Fingerprint, before: Option<Fingerprint>) -> String {
    let before = before.map(|before| format!("until now it was\n  {before}\n")).unwrap_or_default();
    format!(
        "the certificate of {place} has the SHA-256 fingerprint\n  {seen}\n{before}\
         Is it the one that the operator gives? (yes/no) "
    )
}

/// Whether the answer is `yes`, written out.
fn agrees(question: &str, to: &mut impl Write, from: &mut impl BufRead) -> Result<bool, CliError> {
    write!(to, "{question}").and_then(|()| to.flush()).map_err(CliError::Output)?;
    let mut answer = String::new();
    io::Read::take(from, LONGEST_ANSWER).read_line(&mut answer).map_err(CliError::Answer)?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_agrees_and_the_question_shows_both_fingerprints() {
        let print = |byte| Fingerprint([byte; 32]);
        let question = question("a:1", print(0xab), Some(print(0xcd)));
        assert!(question.contains(&"ab".repeat(32)) && question.contains(&"cd".repeat(32)));
        for (answer, agreed) in
            [("yes\n", true), (" yes \r\n", true), ("y\n", false), ("no\n", false), ("", false)]
        {
            let mut asked = Vec::new();
            assert_eq!(agrees(&question, &mut asked, &mut answer.as_bytes()).unwrap(), agreed);
            assert_eq!(asked, question.as_bytes());
        }
    }
}
