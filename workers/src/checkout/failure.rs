//! Why a fetch failed, by what git said: in a few words for people, and whether another try may help.
//!
//! Git has no codes for this, so its words are looked for, those of its versions 2.39 to 2.49 with the
//! libraries of curl that go with them, and those of OpenSSH. A server and whoever named a repository
//! choose words too: what the server says by itself is left out, and so is the address.

use super::address::Address;

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The repository has nothing of that name.
    NoSuchRef,
    /// The server does not answer as it should just now.
    Passing(&'static str),
    /// It will fail again.
    Lasting(&'static str),
    /// The server names another address.
    SentOn,
    /// Git said nothing that is known.
    Unknown,
}

use Failure::{Lasting, NoSuchRef, Passing, SentOn};

/// What git says, and what that is. The first that fits counts. Each text has a blank, so that neither a
/// host nor a ref can hold it.
const SAID: [(Failure, &[&str]); 31] = [
    (
        Lasting("git needs more memory for it than it may have on this node"),
        &[
            "Out of memory, ",
            "out of memory, ",
            "Cannot allocate memory",
            "unable to create thread",
        ],
    ),
    (
        Lasting("it has more than git may write into one file on this node"),
        &["died of signal 25"],
    ),
    (
        Lasting("there is no ssh on this node"),
        &[
            "ssh: not found",
            "ssh: command not found",
            "cannot run ssh:",
            "ssh: No such file",
        ],
    ),
    (
        Lasting("git of this node does not know how to reach it"),
        &["is not a git command"],
    ),
    (
        Lasting("this node has no room for its files"),
        &["No space left on device", "Disk quota exceeded", "File too large"],
    ),
    (
        NoSuchRef,
        &[
            "couldn't find remote ref",
            "not our ref",
            "request for unadvertised object",
        ],
    ),
    (
        Passing("its host is not known"),
        &[
            "ould not resolve host",
            "Unable to look up ",
            "Resolving timed out",
            "name resolution",
        ],
    ),
    (
        Passing("the host of the proxy is not known"),
        &["ould not resolve proxy"],
    ),
    (
        Lasting("the key of its host is not known to the owner of this job"),
        &["Host key verification failed"],
    ),
    (
        Lasting("this node knows no authorities that sign certificates"),
        &["error setting certificate", "Problem with the SSL CA cert"],
    ),
    (
        Lasting("the certificate of its server is not good"),
        &[
            "SSL certificate",
            "certificate problem",
            "certificate verif",
            "certificate subject name",
            "peer certificate",
        ],
    ),
    (
        Lasting("its server wants a user and a password, and not these"),
        &["Authentication failed for"],
    ),
    (
        Lasting("its server wants a user and a password"),
        &["could not read Username"],
    ),
    (Lasting("its server wants a password"), &["could not read Password"]),
    (
        Lasting("its server takes no ssh key of the owner of this job"),
        &["Permission denied (", "Too many authentication failures"],
    ),
    (
        Lasting("ssh of this node and its server have no algorithm in common"),
        &["Unable to negotiate with", "no matching host key type"],
    ),
    (
        Lasting("ssh of this node can't read the settings of the owner of this job"),
        &["Bad owner or permissions on", "Bad configuration option"],
    ),
    (Lasting("its server refuses this user (403)"), &["returned error: 403"]),
    (
        Lasting("its server has no such repository (404)"),
        &["returned error: 404", "returned error: 410"],
    ),
    (
        Lasting("the proxy wants a user and a password (407)"),
        &["returned error: 407", "response 407", "HTTP code 407"],
    ),
    (
        Lasting("there is no such repository"),
        &["Repository not found", "' not found"],
    ),
    (
        SentOn,
        &["returned error: 30", "unable to update url base from redirection"],
    ),
    (Passing("its server refuses the connection"), &["onnection refused"]),
    (
        Passing("its server asks to wait (429)"),
        &["returned error: 429", "Too Many Requests"],
    ),
    (
        Passing("its server sends less than 1 KB a second"),
        &["Operation too slow"],
    ),
    (
        Passing("its server does not answer"),
        &[
            "timed out",
            "Timeout, server",
            "SSL connection timeout",
            "Timeout was reached",
            "returned error: 408",
        ],
    ),
    (
        Passing("its server can't be reached"),
        &[
            "No route to host",
            "etwork is unreachable",
            "ould not connect to server",
            "ouldn't connect to server",
            "Failed to connect to",
            "Unable to connect to",
            "unable to connect to",
            "Host is down",
        ],
    ),
    (
        Passing("its server has an error"),
        &["returned error: 5", "HTTP code 5", "response 50"],
    ),
    (Lasting("its server refuses what it is asked"), &["returned error: 4"]),
    (
        Passing("its server broke the connection off"),
        &[
            "onnection reset",
            "onnection closed by",
            "closed by remote host",
            "onnection aborted",
            "Empty reply from server",
            "Broken pipe",
            "Recv failure:",
            "Send failure:",
            "kex_exchange_identification: ",
            "ssh_exchange_identification: ",
            "TLS connection was non-properly",
            "the pull function",
            "the push function",
            "GnuTLS recv error",
            "SSL_ERROR_SYSCALL in",
            "unexpected eof while reading",
            "not closed cleanly",
            "the HTTP2 framing layer",
            "bytes remaining to read",
            "outstanding read data remaining",
            "early EOF",
            "RPC failed;",
            "unexpected disconnect",
            "hung up",
            "expected flush after",
        ],
    ),
    (
        Lasting("it does not speak TLS as git of this node does: is it https, and the port right?"),
        &[
            "gnutls_handshake() failed",
            "SSL routines",
            "GnuTLS, handshake failed",
            "SSL connect error",
        ],
    ),
];

/// What a server says by itself begins so.
const OF_SERVER: &str = "remote: ";

impl Failure {
    /// Of what git said of this address.
    pub(super) fn of(said: &str, address: &Address) -> Self {
        let own: Vec<&str> = said.lines().filter(|line| !line.starts_with(OF_SERVER)).collect();
        let own = address.left_out_of(&own.join("\n"));
        let known = SAID
            .iter()
            .find(|(_, texts)| texts.iter().any(|text| own.contains(text)));
        known.map_or(Failure::Unknown, |(failure, _)| *failure)
    }

    /// In words, if there are better ones than that it could not be read.
    pub(super) fn why(self) -> Option<&'static str> {
        match self {
            Passing(why) | Lasting(why) => Some(why),
            SentOn => Some("its server sends on to another address, and that is not followed: write the new one"),
            NoSuchRef | Failure::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(said: &str, address: &str) -> Failure {
        Failure::of(said, &Address::parse(address).unwrap_or_else(|why| panic!("{why}")))
    }

    /// How git says what curl says, which `@` stands for here.
    const BY_HTTP: &str = "fatal: unable to access 'https://x/y/': ";

    fn said(text: &str) -> String {
        text.replacen('@', BY_HTTP, usize::from(text.starts_with('@')))
    }

    const PASSING: [(&str, &str); 38] = [
        ("@Could not resolve host: x", "not known"),
        ("@Resolving timed out after 5000 milliseconds", "not known"),
        (
            "ssh: Could not resolve hostname x: Name or service not known",
            "not known",
        ),
        (
            "ssh: Could not resolve hostname x: Temporary failure in name resolution",
            "not known",
        ),
        (
            "fatal: Unable to look up x (port 9418) (Name or service not known)",
            "not known",
        ),
        (
            "@Failed to connect to h port 1: Connection refused",
            "refuses the connection",
        ),
        (
            "ssh: connect to host x port 22: Connection refused",
            "refuses the connection",
        ),
        (
            "@Failed to connect to 127.0.0.1 port 1 after 0 ms: Couldn't connect to server",
            "can't be reached",
        ),
        (
            "@Failed to connect to 127.0.0.1 port 1 after 0 ms: Could not connect to server",
            "can't be reached",
        ),
        ("ssh: connect to host x port 22: No route to host", "can't be reached"),
        (
            "ssh: connect to host x port 22: Network is unreachable",
            "can't be reached",
        ),
        (
            "ssh: connect to host x port 22: Connection timed out",
            "does not answer",
        ),
        (
            "fatal: unable to connect to x:\nx[0: ::1]: errno=Connection timed out",
            "does not answer",
        ),
        ("Connection timed out during banner exchange", "does not answer"),
        ("Timeout, server x not responding.", "does not answer"),
        ("@Connection timed out after 300000 milliseconds", "does not answer"),
        ("@SSL connection timeout", "does not answer"),
        ("@Recv failure: Connection reset by peer", "broke the connection off"),
        (
            "@OpenSSL SSL_connect: Connection reset by peer in connection to x:443 ",
            "broke",
        ),
        (
            "@OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to x:443 ",
            "broke",
        ),
        (
            "@OpenSSL SSL_read: OpenSSL/3.0.15: error:0A000126:SSL routines::unexpected eof while reading, errno 0",
            "broke",
        ),
        (
            "@gnutls_handshake() failed: The TLS connection was non-properly terminated.",
            "broke",
        ),
        ("@gnutls_handshake() failed: Error in the pull function.", "broke"),
        (
            "@GnuTLS recv error (-110): The TLS connection was non-properly terminated.",
            "broke",
        ),
        ("@Empty reply from server", "broke"),
        ("@Send failure: Broken pipe", "broke"),
        (
            "@HTTP/2 stream 1 was not closed cleanly: INTERNAL_ERROR (err 2)",
            "broke",
        ),
        ("@Error in the HTTP2 framing layer", "broke"),
        (
            "error: RPC failed; curl 18 transfer closed with outstanding read data remaining\n\
                 fetch-pack: unexpected disconnect while reading sideband packet\nfatal: early EOF",
            "broke",
        ),
        ("kex_exchange_identification: read: Connection reset by peer", "broke"),
        ("kex_exchange_identification: Connection closed by remote host", "broke"),
        ("Connection closed by 140.82.121.4 port 22", "broke"),
        ("client_loop: send disconnect: Broken pipe", "broke"),
        ("fatal: the remote end hung up unexpectedly", "broke"),
        ("@The requested URL returned error: 429", "asks to wait"),
        (
            "error: RPC failed; HTTP 503 curl 22 The requested URL returned error: 503",
            "has an error",
        ),
        ("@CONNECT tunnel failed, response 503", "has an error"),
        (
            "error: RPC failed; curl 28 Operation too slow. Less than 1000 bytes/sec transferred the last 60 \
              seconds",
            "less than 1 KB",
        ),
    ];

    const LASTING: [(&str, &str); 23] = [
        ("fatal: Authentication failed for 'https://x/'", "not these"),
        (
            "fatal: could not read Username for 'https://x': terminal prompts disabled",
            "a user and a password",
        ),
        ("x@y: Permission denied (publickey).", "ssh key"),
        (
            "Received disconnect from 1.2.3.4 port 22:2: Too many authentication failures\nDisconnected from \
                 1.2.3.4 port 22",
            "ssh key",
        ),
        ("Host key verification failed.", "key of its host"),
        (
            "Unable to negotiate with 1.2.3.4 port 22: no matching host key type found. Their offer: ssh-rsa",
            "no algorithm",
        ),
        ("@SSL certificate problem: self-signed certificate", "certificate"),
        (
            "@server certificate verification failed. CAfile: none CRLfile: none",
            "certificate of its server",
        ),
        (
            "@SSL: no alternative certificate subject name matches target host name 'x'",
            "certificate of its server",
        ),
        (
            "@error setting certificate verify locations:  CAfile: /x",
            "no authorities",
        ),
        (
            "@OpenSSL/3.0.15: error:0A00010B:SSL routines::wrong version number",
            "does not speak TLS",
        ),
        ("@gnutls_handshake() failed: Handshake failed", "does not speak TLS"),
        ("fatal: repository 'https://x/y/' not found", "no such repository"),
        (
            "remote: Repository not found.\nERROR: Repository not found.\nfatal: Could not read from remote \
                 repository.",
            "no such repository",
        ),
        ("@The requested URL returned error: 403", "403"),
        ("@The requested URL returned error: 404", "404"),
        ("@The requested URL returned error: 418", "refuses what it is asked"),
        ("@The requested URL returned error: 407", "proxy"),
        ("sh: 1: ssh: not found", "no ssh on this node"),
        ("bash: line 1: ssh: command not found", "no ssh on this node"),
        (
            "error: cannot run ssh: No such file or directory",
            "no ssh on this node",
        ),
        (
            "git: 'remote-https' is not a git command. See 'git --help'.",
            "does not know how",
        ),
        (
            "fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output",
            "no room",
        ),
    ];

    /// "A fetch that failed for what may pass (no host, no connection, an error of the server) is tried twice
    /// more": in the words of git 2.39 to 2.49, of curl 7.88 to 8.14 and of OpenSSH 9 and 10.
    #[test]
    fn what_may_pass_is_known() {
        for (text, why) in PASSING {
            let failure = of(&said(text), "https://x/y");
            let fits = matches!(failure, Passing(found) if found.contains(why));
            assert!(fits, "{text}: {failure:?}");
        }
    }

    /// "`why` says which of these it was; user and certificate are not tried again."
    #[test]
    fn what_stays_is_known() {
        for (text, why) in LASTING {
            let failure = of(&said(text), "https://x/y");
            let fits = matches!(failure, Lasting(found) if found.contains(why));
            assert!(fits, "{text}: {failure:?}");
        }
        for code in [301, 302, 303, 307, 308] {
            let text = said(&format!("@The requested URL returned error: {code}"));
            assert_eq!(of(&text, "https://x/y"), SentOn, "{text}");
        }
        let absent = "fatal: couldn't find remote ref nope";
        assert_eq!(of(absent, "/x"), NoSuchRef);
        assert_eq!((of("odd", "/x"), of("", "/x").why()), (Failure::Unknown, None));
    }

    /// "Texts say what failed and not something else": neither an address nor a ref nor a server's own
    /// words are taken for what git says.
    #[test]
    fn names_are_no_reasons() {
        for (text, count) in SAID.iter().flat_map(|(_, texts)| *texts).zip(1..) {
            assert!(text.trim_end().contains(' ') || text.ends_with(' '), "{count}: {text}");
        }
        let lost = "Failed to connect to x port 443 after 1 ms: Couldn't connect to server";
        for address in [
            "https://x/smallstep/certificates",
            "https://x/SSL certificate problem",
            "https://x/a/ssh: not found/",
        ] {
            let said = format!("fatal: unable to access '{}/': {lost}", address.trim_end_matches('/'));
            assert!(
                matches!(of(&said, address), Passing(_)),
                "{said}: {:?}",
                of(&said, address)
            );
        }
        let said = "fatal: 'a/Connection refused' does not appear to be a git repository";
        assert_eq!(of(said, "git@x:a/Connection refused"), Failure::Unknown);
        let said = "remote: No space left on device\nremote: Connection refused\nfatal: couldn't find remote ref x";
        assert_eq!(of(said, "https://x/y"), NoSuchRef);
    }
}
