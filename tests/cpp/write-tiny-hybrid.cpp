// Writes the tiny hybrid model for tests that are given one on their command line.

#include "tiny-hybrid.h"

int main(int argc, char ** argv) {
    if (argc != 2) {
        return 1;
    }
    TinyHybrid::write(argv[1]);
    return 0;
}
