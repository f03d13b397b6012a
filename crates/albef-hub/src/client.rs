//! Requests: proxies, redirects, access tokens and time limits.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use crate::cache::variable;
use crate::error::{HubError, Result};

/// How servers are asked.
#[derive(Clone)]
pub struct Settings {
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Access token for the hub; sent to no other server.
    pub token: Option<String>,
    /// Whether nothing may be fetched.
    pub offline: bool,
    /// The longest time without a byte.
    pub timeout: Duration,
    /// The first pause before a request is tried again; each further one is twice as long.
    pub pause: Duration,
    /// Requests in a row that may fail without a byte of progress.
    pub attempts: u32,
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Vec<String>,
}

impl std::fmt::Debug for Settings {
    /// Without the token and the proxies, which may have passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// The hub where no mirror is named.
const HUB: &str = "https://huggingface.co";
/// Redirects that are followed.
const REDIRECTS: usize = 10;

impl Default for Settings {
    /// The hub itself, without a token and proxies.
    fn default() -> Self {
        Self {
            endpoint: HUB.into(),
            token: None,
            offline: false,
            timeout: Duration::from_secs(30),
            pause: Duration::from_millis(500),
            attempts: 5,
            http_proxy: None,
            https_proxy: None,
            no_proxy: Vec::new(),
        }
    }
}

impl Settings {
    /// By the variables that other tools know: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`,
    /// `HF_HUB_DOWNLOAD_TIMEOUT` in seconds; `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in
    /// capitals or not.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn from_env() -> Result<Self> {
        let mut out = Self::default();
        let first = |names: &[&'static str]| -> Result<Option<String>> {
            for name in names {
                if let Some(value) = variable(name)? {
                    return Ok(Some(value));
                }
            }
            Ok(None)
        };
        if let Some(endpoint) = variable("HF_ENDPOINT")? {
            let endpoint = endpoint.trim_end_matches('/').to_owned();
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                return Err(HubError::Environment {
                    variable: "HF_ENDPOINT",
                    detail: format!("`{endpoint}` does not begin with https:// or http://"),
                });
            }
            out.endpoint = endpoint;
        }
        out.token = variable("HF_TOKEN")?.map(|token| token.trim().to_owned());
        let on = |value: &str| ["1", "on", "yes", "true"].contains(&&*value.to_ascii_lowercase());
        out.offline = variable("HF_HUB_OFFLINE")?.is_some_and(|value| on(&value));
        if let Some(seconds) = variable("HF_HUB_DOWNLOAD_TIMEOUT")? {
            let number = seconds.parse::<u64>().ok().filter(|n| (1..=86_400).contains(n));
            out.timeout = number.map(Duration::from_secs).ok_or_else(|| HubError::Environment {
                variable: "HF_HUB_DOWNLOAD_TIMEOUT",
                detail: format!("`{seconds}` is no number of seconds"),
            })?;
        }
        out.https_proxy = first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?;
        out.http_proxy = first(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?;
        let except = first(&["no_proxy", "NO_PROXY"])?.unwrap_or_default();
        out.no_proxy =
            except.split(',').map(|e| e.trim().to_owned()).filter(|e| !e.is_empty()).collect();
        Ok(out)
    }

    /// Through a proxy for all servers but those that `except` names, as `NO_PROXY` does.
    #[must_use]
    pub fn proxied(mut self, proxy: Option<&str>, except: &[&str]) -> Self {
        self.http_proxy = proxy.map(str::to_owned);
        self.https_proxy = proxy.map(str::to_owned);
        self.no_proxy = except.iter().map(|e| (*e).to_owned()).collect();
        self
    }

    /// The proxy for an address.
    fn proxy(&self, scheme: &str, host: &str) -> Option<&str> {
        let proxy = if scheme == "https" { &self.https_proxy } else { &self.http_proxy };
        let excepted = self.no_proxy.iter().any(|entry| matches_host(entry, host));
        proxy.as_deref().filter(|_| !excepted)
    }
}

/// Whether an entry of `NO_PROXY` means a host: `*`, the host, or a domain above it.
fn matches_host(entry: &str, host: &str) -> bool {
    let (entry, host) = (entry.to_ascii_lowercase(), host.to_ascii_lowercase());
    let domain = entry.trim_start_matches("*.").trim_start_matches('.');
    let domain = match domain.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => domain,
    };
    entry == "*"
        || host == domain
        || host.strip_suffix(domain).is_some_and(|h| h.ends_with('.') && !domain.is_empty())
}

/// Asks servers.
pub(crate) struct Client {
    pub(crate) settings: Settings,
}

/// A request without its address.
#[derive(Clone, Default)]
pub(crate) struct Ask {
    pub headers: Vec<(&'static str, String)>,
    /// Whether only the headers are wanted.
    pub head: bool,
    /// Whether redirects to other servers are followed.
    pub other_servers: bool,
}

/// An answer.
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Body,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// The validator for resuming: an ETag that vouches for each byte.
    pub(crate) fn strong_etag(&self) -> Option<String> {
        let etag = self.header("etag")?.trim();
        (!etag.starts_with("W/") && etag.len() > 2).then(|| etag.to_owned())
    }

    pub(crate) fn into_reader(self) -> impl Read {
        self.body.into_reader()
    }

    /// The body as text, of a bounded length.
    pub(crate) fn text(self, limit: u64) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.into_reader().take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Why a request got no answer.
pub(crate) enum Failure {
    /// It may be better next time.
    Passing(String),
    /// It will not.
    Lasting(HubError),
}

impl Client {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Whether an address is of the hub, which alone gets the token.
    fn is_hub(&self, url: &str) -> bool {
        let rest = url.strip_prefix(&self.settings.endpoint);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn agent(&self, scheme: &str, host: &str) -> Result<Agent> {
        let timeout = self.settings.timeout;
        // The user's own certificates count, such as that of a company's proxy.
        let of_system = !cfg!(target_os = "linux")
            || ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|n| std::env::var_os(n).is_some())
            || ["/etc/ssl/certs", "/etc/pki/tls/certs"].iter().any(|p| Path::new(p).is_dir());
        let roots = if of_system { RootCerts::PlatformVerifier } else { RootCerts::WebPki };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("albef/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_resolve(Some(timeout))
            .timeout_connect(Some(timeout))
            .timeout_send_request(Some(timeout))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .proxy(None);
        if let Some(proxy) = self.settings.proxy(scheme, host) {
            let variable = if scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
            let found = Proxy::new(proxy).map_err(|_| HubError::Environment {
                variable,
                detail: "this is no address of a proxy; expected is http://HOST:PORT".into(),
            })?;
            config = config.proxy(Some(found));
        }
        Ok(config.build().into())
    }

    /// Asks one server, and those to which it refers.
    pub(crate) fn ask(&self, url: &str, ask: &Ask) -> std::result::Result<Answer, Failure> {
        let mut at = url.to_owned();
        for _ in 0..=REDIRECTS {
            let answer = self.ask_one(&at, ask)?;
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let lasting =
                |detail: String| Failure::Lasting(HubError::Protocol { url: at.clone(), detail });
            let target = answer.header("location").unwrap_or_default();
            let (next, same_server) = joined(&at, target)
                .ok_or_else(|| lasting(format!("it refers to `{target}`, which is no address")))?;
            if at.starts_with("https://") && !next.starts_with("https://") {
                return Err(lasting(format!("it refers to `{next}`, which is not protected")));
            }
            if !same_server && !ask.other_servers {
                return Ok(answer);
            }
            at = next;
        }
        let detail = format!("it refers from one address to the next, {REDIRECTS} times");
        Err(Failure::Lasting(HubError::Protocol { url: url.into(), detail }))
    }

    fn ask_one(&self, url: &str, ask: &Ask) -> std::result::Result<Answer, Failure> {
        let lasting =
            |detail: String| Failure::Lasting(HubError::Protocol { url: url.to_owned(), detail });
        let uri: Uri = url.parse().map_err(|e| lasting(format!("no address ({e})")))?;
        let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default());
        let agent = self.agent(scheme, host).map_err(Failure::Lasting)?;
        let mut request = if ask.head { agent.head(url) } else { agent.get(url) };
        // Bytes as they are: a compressed answer has another length and cannot be resumed.
        request = request.header("Accept-Encoding", "identity");
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        match request.call() {
            Ok(response) => {
                let (parts, body) = Response::into_parts(response);
                Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
            }
            Err(error) => Err(match error {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
                    lasting(error.to_string())
                }
                other if is_of_certificates(&other) => lasting(format!(
                    "no protected connection ({other}); if a proxy or mirror with a certificate of its own \
                     stands between, name its file with SSL_CERT_FILE"
                )),
                other => Failure::Passing(other.to_string()),
            }),
        }
    }
}

/// Whether a server is not the one that was meant, or cannot show it; trying again does not help. Most of these
/// errors come as ones of input and output.
fn is_of_certificates(error: &ureq::Error) -> bool {
    let tls = matches!(error, ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_));
    tls || error.to_string().contains("certificate")
}

/// An address to which one refers, and whether it is on the same server.
fn joined(base: &str, target: &str) -> Option<(String, bool)> {
    let (scheme, rest) = base.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    if target.contains("://") {
        let (_, other) = target.split_once("://")?;
        let same = other.split(['/', '?', '#']).next()? == host && target.starts_with(scheme);
        return Some((target.to_owned(), same));
    }
    if let Some(other) = target.strip_prefix("//") {
        return Some((format!("{scheme}://{other}"), other.split('/').next()? == host));
    }
    if target.starts_with('/') {
        return Some((format!("{scheme}://{host}{target}"), true));
    }
    let folder = base.split(['?', '#']).next()?;
    let folder = &folder[..folder.rfind('/').filter(|at| *at > scheme.len() + 2)?];
    (!target.is_empty()).then(|| (format!("{folder}/{target}"), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_joined_as_browsers_do() {
        let base = "https://a.org/x/y?z=1";
        for (target, want, same) in [
            ("https://b.org/q", "https://b.org/q", false),
            ("https://a.org/q", "https://a.org/q", true),
            ("//b.org/q", "https://b.org/q", false),
            ("/q?r", "https://a.org/q?r", true),
            ("q", "https://a.org/x/q", true),
        ] {
            assert_eq!(joined(base, target), Some((want.to_owned(), same)), "{target}");
        }
        assert_eq!(joined(base, ""), None);
    }

    #[test]
    fn proxies_are_chosen_by_address() {
        let settings = Settings {
            https_proxy: Some("http://p:1".into()),
            no_proxy: vec!["local".into(), ".corp.org".into(), "10.0.0.1:80".into()],
            ..Settings::default()
        };
        assert_eq!(settings.proxy("https", "a.org"), Some("http://p:1"));
        assert_eq!(settings.proxy("http", "a.org"), None);
        for host in ["local", "x.local", "corp.org", "a.CORP.org", "10.0.0.1"] {
            assert_eq!(settings.proxy("https", host), None, "{host}");
        }
        assert!(settings.proxy("https", "xcorp.org").is_some());
        let settings = Settings { no_proxy: vec!["*".into()], ..settings };
        assert_eq!(settings.proxy("https", "a.org"), None);
    }

    #[test]
    fn a_wrong_certificate_is_not_tried_again() {
        let of = |text: &str| ureq::Error::Io(std::io::Error::other(text.to_owned()));
        assert!(is_of_certificates(&of("invalid peer certificate: UnknownIssuer")));
        assert!(is_of_certificates(&ureq::Error::Tls("no provider")));
        assert!(!is_of_certificates(&of("connection reset by peer")));
    }

    #[test]
    fn only_the_hub_gets_the_token() {
        let client = Client::new(Settings::default());
        assert!(client.is_hub("https://huggingface.co/a/b"));
        assert!(!client.is_hub("https://huggingface.co.evil.org/a"));
        assert!(!client.is_hub("http://huggingface.co/a"));
    }
}
