// The bounded queue of the HTTP server, and how deep JSON may be nested.

#include "check.h"
#include "nesting.h"
#include "server-places.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Task {
    std::vector<int> child_tasks;
};

using Tasks = std::vector<Task>;

bool takes(server_places & places, server_ticket & ticket, const Tasks & tasks) {
    try {
        ticket.take(places, tasks);
        return true;
    } catch (const server_queue_full & error) {
        CHECK(std::string(error.what()).find("--max-queue") != std::string::npos);
        return false;
    }
}

void a_queue_without_a_limit_takes_everything() {
    server_places places;
    places.set(1, -1);
    std::vector<server_ticket> tickets(100);
    for (server_ticket & ticket : tickets) {
        CHECK(takes(places, ticket, Tasks(10)));
    }
}

void places_are_counted_with_children_and_given_back() {
    server_places places;
    places.set(2, 1);
    {
        server_ticket first;
        server_ticket second;
        server_ticket third;
        CHECK(takes(places, first, {Task{{1}}}));  // one and its child
        CHECK(!takes(places, second, Tasks(2)));
        CHECK(takes(places, second, Tasks(1)));
        CHECK(!takes(places, third, Tasks(1)));
    }
    server_ticket again;
    CHECK(takes(places, again, Tasks(3)));
    again.give_back();
    again.give_back();
    server_ticket one;
    server_ticket more;
    CHECK(takes(places, one, Tasks(1)) && takes(places, again, Tasks(2)) && !takes(places, more, Tasks(1)));
}

// It would be refused for ever otherwise.
void a_request_that_is_too_large_is_taken_when_it_is_alone() {
    server_places places;
    places.set(1, 0);
    server_ticket other;
    {
        server_ticket large;
        CHECK(takes(places, large, Tasks(50)));
        CHECK(!takes(places, other, Tasks(1)));
    }
    CHECK(takes(places, other, Tasks(1)));
    server_ticket large;
    CHECK(!takes(places, large, Tasks(50)));
}

void threads_never_get_more_than_there_is() {
    server_places places;
    places.set(2, 3);
    std::atomic<int> inside{0};
    std::atomic<int> most{0};
    std::vector<std::thread> threads;
    for (int k = 0; k < 4; ++k) {
        threads.emplace_back([&] {
            for (int i = 0; i < 2000; ++i) {
                server_ticket ticket;
                if (takes(places, ticket, Tasks(2))) {
                    const int now = inside += 2;
                    int seen      = most;
                    while (seen < now && !most.compare_exchange_weak(seen, now)) {
                    }
                    inside -= 2;
                }
            }
        });
    }
    for (std::thread & thread : threads) {
        thread.join();
    }
    CHECK(most > 0 && most <= 4);
}

void nesting_counts_what_is_outside_of_texts() {
    CHECK(json_nesting("") == 0);
    CHECK(json_nesting("1") == 0);
    CHECK(json_nesting("[]") == 1);
    CHECK(json_nesting(R"({"a": [{"b": []}], "c": {}})") == 4);
    CHECK(json_nesting(R"({"[[[[": "]]{{\"[[\\"})") == 1);
    CHECK(json_nesting(R"(["\\", [], "\\\"[[["])") == 2);
    CHECK(json_nesting("]]]}}[") == 1);
    CHECK(json_nesting("\"\\") == 0);
    CHECK(json_nesting(std::string(100000, '[')) == 100000);
    CHECK(json_nesting("[" + std::string(100000, ']')) == 1);

    CHECK(grammar_nesting("root ::= a (b | (c)+)* d") == 2);
    CHECK(grammar_nesting("root ::= \"((\\\"((\" [((\\]\"(] # (((\nx ::= (\"a\")") == 1);
    CHECK(grammar_nesting("root ::= [\"] ((( [\"]") == 3);
    CHECK(grammar_nesting("# ((") == 0);
    CHECK(grammar_nesting("root ::= " + std::string(100000, '(')) == 100000);
}

}  // namespace

int main() {
    a_queue_without_a_limit_takes_everything();
    places_are_counted_with_children_and_given_back();
    a_request_that_is_too_large_is_taken_when_it_is_alone();
    threads_never_get_more_than_there_is();
    nesting_counts_what_is_outside_of_texts();
    return check_result("test-server-places");
}
