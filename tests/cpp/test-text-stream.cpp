// Text of a sample: characters and stop strings across token borders.

#include "text_stream.h"

#include "check.h"

#include <random>
#include <string>
#include <vector>

using darwin_neg::StopHere;
using darwin_neg::TextStream;
using darwin_neg::utf8_complete_prefix;
using darwin_neg::utf8_sanitize;

static std::string join(const std::vector<std::string> & parts) {
    std::string out;
    for (const auto & part : parts) {
        out += part;
    }
    return out;
}

static void characters_wait_for_their_last_byte() {
    const std::string text = "a\xC3\xA9\xEC\x95\x88\xF0\x9F\x98\x80";  // a é 안 😀
    TextStream stream({});
    std::vector<std::string> all;
    for (const char byte : text) {
        stream.add(std::string(1, byte));
        for (const auto & piece : stream.take()) {
            CHECK(utf8_sanitize(piece) == piece);
            all.push_back(piece);
        }
    }
    CHECK(join(all) == text);
    CHECK(all.size() == text.size());  // one piece a token
}

// Each token with what it shows, and "…" where it ends inside a character.
static std::vector<std::string> shown(TextStream & stream, const std::vector<std::string> & tokens) {
    std::vector<std::string> out;
    const auto take = [&] {
        const std::vector<std::string> pieces = stream.take();
        CHECK(stream.ends_inside().size() == pieces.size());
        for (size_t i = 0; i < pieces.size(); ++i) {
            out.push_back(pieces[i] + (stream.ends_inside()[i] != 0 ? "…" : ""));
        }
    };
    for (const std::string & token : tokens) {
        const bool stopped = stream.add(token);
        take();
        if (stopped) {
            return out;
        }
    }
    stream.finish();
    take();
    return out;
}

static void tokens_that_end_inside_a_character_are_named() {
    using Texts = std::vector<std::string>;
    TextStream plain({});
    CHECK(shown(plain, {"a", " \xE2\x80", "\x9C", "", "\xF0", "\x9F", "\x98", "\x80 b"}) ==
          Texts({"a", " …", "“", "", "…", "…", "…", "😀 b"}));
    const std::string bad = "\xEF\xBF\xBD";
    TextStream broken({});  // a byte that is not what was waited for, and an end
    CHECK(shown(broken, {"\xE2", "b", "\xE2", "\x82"}) == Texts({"…", bad + "b", "…", bad}));
    TextStream stopping({"\xE2\x82\xAC!"});  // €!
    CHECK(shown(stopping, {"x\xE2", "\x82\xAC", "!y"}) == Texts({"x", "", ""}));
    TextStream nearly({"\xE2\x82\xAC!"});
    CHECK(shown(nearly, {"x\xE2", "\x82\xAC", "?"}) == Texts({"x…", "€", "?"}));
}

static void broken_bytes_become_replacement_characters() {
    CHECK(utf8_sanitize("a\xFFz") == "a\xEF\xBF\xBDz");
    CHECK(utf8_sanitize("\xE2\x82") == "\xEF\xBF\xBD");                              // cut short
    CHECK(utf8_sanitize("\xED\xA0\x80") == "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // a surrogate: three bad bytes
    CHECK(utf8_complete_prefix("ab\xE2\x82") == 2);
    CHECK(utf8_complete_prefix("ab\xE2\x82\xAC") == 5);
    CHECK(utf8_complete_prefix("\xFF\xFF") == 2);
    TextStream stream({});
    stream.add("x\xE2");
    CHECK(join(stream.take()).empty());
    stream.finish();
    CHECK(join(stream.take()) == "x\xEF\xBF\xBD");
}

static void stop_string_is_found_across_tokens_and_cut_off() {
    TextStream stream({"</end>", "###"});
    CHECK(!stream.add("Hello <"));
    CHECK(!stream.add("/e"));
    CHECK(join(stream.take()).empty());  // the one token that holds "Hello <" waits as a whole
    CHECK(stream.add("nd> and more"));
    CHECK(stream.matched_stop() == "</end>");
    const auto pieces = stream.take();
    CHECK(join(pieces) == "Hello ");
    CHECK(pieces.size() == 3);
}

static void near_misses_are_released() {
    TextStream stream({"abcabd"});
    std::string out;
    for (const char c : std::string("abcabcabcx")) {
        CHECK(!stream.add(std::string(1, c)));
        out += join(stream.take());
    }
    CHECK(out == "abcabcabcx");
}

// Whatever the tokens and stops: the text is what a search over the whole would give, one piece a token.
static void random_texts_equal_a_search_over_the_whole() {
    std::mt19937 rng(7);
    const auto number = [&](int n) { return static_cast<int>(rng() % static_cast<unsigned>(n)); };
    for (int round = 0; round < 5000; ++round) {
        std::vector<std::string> stops;
        for (int i = number(3); i > 0; --i) {
            std::string s;
            for (int k = 1 + number(4); k > 0; --k) {
                s += static_cast<char>('a' + number(2));
            }
            stops.push_back(s);
        }
        TextStream stream(stops);
        std::string whole;
        std::vector<std::string> pieces;
        size_t tokens = 0;
        bool stopped  = false;
        for (int t = number(12); t > 0 && !stopped; --t) {
            std::string token;
            for (int k = number(4); k > 0; --k) {
                token += static_cast<char>('a' + number(2));
            }
            whole += token;
            ++tokens;
            stopped = stream.add(token);
            for (auto & piece : stream.take()) {
                pieces.push_back(piece);
            }
        }
        stream.finish();
        for (auto & piece : stream.take()) {
            pieces.push_back(piece);
        }
        size_t cut = std::string::npos;
        for (const auto & stop : stops) {
            cut = std::min(cut, whole.find(stop));
        }
        CHECK(stopped == (cut != std::string::npos));
        CHECK(join(pieces) == whole.substr(0, cut));
        CHECK(pieces.size() == tokens);
    }
}

// A rule tells which stop strings count; one that cannot be told yet is held back until it can.
static void a_rule_decides_which_stop_strings_count() {
    const auto rule = [](const std::string & bytes, size_t at) {
        const size_t answer = bytes.find('|');
        if (answer == std::string::npos || at < answer) {
            return StopHere::no;
        }
        return bytes.find('!') == std::string::npos ? StopHere::not_yet : StopHere::yes;
    };
    for (const size_t step : {1, 2, 3, 100}) {
        TextStream stream({"##"}, {"stop", "s"}, rule);
        const std::string whole = "s stop | a stop b! stop ##";
        std::string out;
        bool stopped = false;
        for (size_t i = 0; i < whole.size() && !stopped; i += step) {
            stopped = stream.add(whole.substr(i, step));
            out += join(stream.take());
        }
        CHECK(stopped && out == "s stop | a ");
        CHECK(stream.matched_stop() == "stop");
    }
    TextStream free({"##"}, {"stop"}, rule);
    CHECK(!free.add("a stop "));
    CHECK(free.add("##"));
    CHECK(join(free.take()) == "a stop ");
    TextStream open({}, {"stop"}, rule);
    CHECK(!open.add("|stop"));
    CHECK(join(open.take()).empty());
    open.finish();
    CHECK(join(open.take()) == "|stop");
}

int main() {
    a_rule_decides_which_stop_strings_count();
    characters_wait_for_their_last_byte();
    tokens_that_end_inside_a_character_are_named();
    broken_bytes_become_replacement_characters();
    stop_string_is_found_across_tokens_and_cut_off();
    near_misses_are_released();
    random_texts_equal_a_search_over_the_whole();
    return check_result("text-stream");
}
