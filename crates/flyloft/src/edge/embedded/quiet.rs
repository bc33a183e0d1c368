//! Who asks without being a visitor: crawlers, link previews, and what the configuration adds. Pure.
//!
//! What they ask does not wake an environment, and does not keep one awake. They are known by their user agent, from
//! what their makers document. Agents that fetch a page because somebody has just asked for it (`ChatGPT-User`,
//! `Claude-User`) are visitors, and so are monitors, unless the configuration names them.

use std::sync::OnceLock;

use hyper::header::{HeaderMap, USER_AGENT};

/// What search engines are told, whatever the app says.
pub const ROBOTS: &str = "User-agent: *\nDisallow: /\n";

/// Only so much of a user agent is looked at.
const LOOK_AT: usize = 512;

/// A user agent with a word that begins with one of these, in upper or lower case. Sorted.
pub const AGENTS: &[&str] = &[
    "adidxbot",
    "adsbot-google",
    "ahrefsbot",
    "ahrefssiteaudit",
    "amazonbot",
    "anthropic-ai",
    "apis-google",
    "applebot",
    "archive.org_bot",
    "baiduspider",
    "barkrowler",
    "bingbot",
    "bingpreview",
    "bitlybot",
    "blexbot",
    "bytespider",
    "ccbot",
    "claude-searchbot",
    "claudebot",
    "cohere-ai",
    "dataforseobot",
    "diffbot",
    "discordbot",
    "dotbot",
    "duckassistbot",
    "duckduckbot",
    "embedly",
    "facebookbot",
    "facebookcatalog",
    "facebookexternalhit",
    "feedfetcher-google",
    "google-cloudvertexbot",
    "google-inspectiontool",
    "google-read-aloud",
    "google-safety",
    "google-site-verification",
    "googlebot",
    "googleother",
    "gptbot",
    "ia_archiver",
    "iframely",
    "imagesiftbot",
    "linkedinbot",
    "mastodon",
    "mattermost-bot",
    "mediapartners-google",
    "meta-externalads",
    "meta-externalagent",
    "meta-externalfetcher",
    "meta-webindexer",
    "microsoftpreview",
    "mj12bot",
    "mojeekbot",
    "msnbot",
    "oai-searchbot",
    "perplexitybot",
    "petalbot",
    "pinterestbot",
    "qwantbot",
    "redditbot",
    "rogerbot",
    "screaming frog",
    "semrushbot",
    "serpstatbot",
    "seznambot",
    "siteauditbot",
    "skypeuripreview",
    "slack-imgproxy",
    "slackbot",
    "slurp",
    "sogou",
    "storebot-google",
    "synapse",
    "telegrambot",
    "timpibot",
    "turnitinbot",
    "twitterbot",
    "vkshare",
    "whatsapp",
    "yandexaccessibilitybot",
    "yandexbot",
    "yandexfavicons",
    "yandeximages",
    "yandexmedia",
    "yandexmetrika",
    "yandexmobilebot",
    "yandexrenderresourcesbot",
    "yandexvideo",
    "yandexwebmaster",
    "yisouspider",
    "youbot",
];

/// Tells visitors from those who are not.
#[derive(Debug, Default)]
pub struct Quiet {
    /// Parts of user agents, in lower case.
    more: Vec<String>,
}

impl Quiet {
    /// Takes `more` parts of user agents for those of no visitor.
    pub fn new(more: &[String]) -> Self {
        Self { more: more.iter().map(|part| part.to_ascii_lowercase()).collect() }
    }

    /// Whether a request for this path by this user agent is none of a visitor.
    pub fn covers(&self, path: &str, agent: &str) -> bool {
        is_of_no_visitor(path) || self.is_agent(agent.as_bytes())
    }

    fn is_agent(&self, agent: &[u8]) -> bool {
        let agent = agent[..agent.len().min(LOOK_AT)].to_ascii_lowercase();
        let mut before = b' ';
        for (at, byte) in agent.iter().enumerate() {
            if !before.is_ascii_alphanumeric() && byte.is_ascii_alphanumeric() && is_known(&agent[at..]) {
                return true;
            }
            before = *byte;
        }
        self.more.iter().any(|part| agent.windows(part.len()).any(|window| window == part.as_bytes()))
    }
}

/// Browsers ask for it by themselves, for bookmarks that nobody opens.
fn is_of_no_visitor(path: &str) -> bool {
    path == "/favicon.ico"
}

/// Whether it begins with one of [`AGENTS`].
fn is_known(text: &[u8]) -> bool {
    let begin = AGENTS.partition_point(|agent| agent.as_bytes()[0] < text[0]);
    AGENTS[begin..]
        .iter()
        .take_while(|agent| agent.as_bytes()[0] == text[0])
        .any(|agent| text.starts_with(agent.as_bytes()))
}

/// What one client calls itself, and what follows from that: with each request of a connection it is the same, and so it
/// is judged once.
#[derive(Debug, Default)]
pub struct Manner(OnceLock<(Box<[u8]>, bool)>);

impl Manner {
    /// Whether a request is none of a visitor.
    pub fn is_quiet(&self, path: &str, headers: &HeaderMap, quiet: &Quiet) -> bool {
        if is_of_no_visitor(path) {
            return true;
        }
        let Some(agent) = headers.get(USER_AGENT).map(|agent| agent.as_bytes()) else { return false };
        let agent = &agent[..agent.len().min(LOOK_AT)];
        let (judged, is_quiet) = self.0.get_or_init(|| (agent.into(), quiet.is_agent(agent)));
        if **judged == *agent { *is_quiet } else { quiet.is_agent(agent) }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn is_quiet(agent: &str) -> bool {
        Quiet::default().is_agent(agent.as_bytes())
    }

    #[test]
    fn crawlers_and_previews_are_no_visitors() {
        for agent in [
            "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
            "Twitterbot/1.0",
            "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
            "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
            "WhatsApp/2.23.20.0 A",
            "TelegramBot (like TwitterBot)",
            "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko); compatible; GPTBot/1.1; +https://openai.com/gptbot",
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ClaudeBot/1.0; +claudebot@anthropic.com)",
            "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15 (Applebot/0.1)",
            "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
            "SLACKBOT",
        ] {
            assert!(is_quiet(agent), "{agent}");
        }
    }

    #[test]
    fn browsers_tools_and_agents_that_somebody_sent_are_visitors() {
        for agent in [
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:132.0) Gecko/20100101 Firefox/132.0",
            "Mozilla/5.0 (Linux; arm_64; Android 13) AppleWebKit/537.36 Chrome/120.0 YaBrowser/24.1 Mobile Safari/537.36",
            "Mozilla/5.0 (Linux; Android 8.1; CUBOT_X18) AppleWebKit/537.36 Chrome/120.0 Mobile Safari/537.36",
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko); compatible; ChatGPT-User/1.0; +https://openai.com/bot",
            "curl/8.5.0",
            "python-requests/2.32",
            "NotAGooglebot/1.0",
            "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
            "",
        ] {
            assert!(!is_quiet(agent), "{agent}");
        }
    }

    #[test]
    fn the_configuration_adds_parts_of_user_agents() {
        let quiet = Quiet::new(&["UptimeRobot".to_owned(), "kube-probe/".to_owned()]);
        assert!(quiet.is_agent(b"Mozilla/5.0+(compatible; uptimerobot/2.0; http://www.uptimerobot.com/)"));
        assert!(quiet.is_agent(b"kube-probe/1.31"));
        assert!(!quiet.is_agent(b"kube"));
    }

    #[test]
    fn the_list_is_sorted_and_in_lower_case() {
        assert!(AGENTS.is_sorted());
        assert!(AGENTS.iter().all(|agent| !agent.is_empty() && !agent.contains(|c: char| c.is_ascii_uppercase())));
    }

    #[test]
    fn one_connection_may_carry_the_requests_of_several_agents() {
        let (manner, quiet) = (Manner::default(), Quiet::default());
        let with = |agent: &'static str| HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(agent))]);
        for (agent, expected) in [("Twitterbot/1.0", true), ("curl/8.5.0", false), ("Twitterbot/1.0", true)] {
            assert_eq!(manner.is_quiet("/", &with(agent), &quiet), expected);
        }
        assert!(manner.is_quiet("/favicon.ico", &with("curl/8.5.0"), &quiet));
        assert!(!manner.is_quiet("/", &HeaderMap::new(), &quiet));
    }
}
