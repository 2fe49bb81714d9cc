/* A libnvidia-ml.so.1 of any cards and any faults, told by environment variables.

   FAKE_NVML_CARDS   name|MiB, several separated by semicolons
   FAKE_NVML_INIT    what nvmlInit answers, such as 9 (no driver) or 18 (another version)
   FAKE_NVML_FAULT   what every query answers after FAKE_NVML_CALLS good ones, such as 15 (lost)
   FAKE_NVML_LACKS   queries that answer 3 (not supported), separated by commas

   Symbols that are not here are missing, as in an old driver. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
enum { MOST_CARDS = 16 };

struct card { char name[96]; unsigned long long mib; unsigned number; };
struct memory { unsigned long long total, free, used; };
struct rates { unsigned gpu, memory; };

static struct card cards[MOST_CARDS];
static unsigned count;
static int calls;

static int number_in(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int fault(const char *query) {
    const char *lacks = getenv("FAKE_NVML_LACKS");
    if (calls++ >= number_in("FAKE_NVML_CALLS", 0) && getenv("FAKE_NVML_FAULT"))
        return number_in("FAKE_NVML_FAULT", OK);
    return lacks && strstr(lacks, query) ? NOT_SUPPORTED : OK;
}

static int write_text(char *target, unsigned size, const char *text) {
    return snprintf(target, size, "%s", text) < (int)size ? OK : TOO_SMALL;
}

int nvmlInitWithFlags(unsigned flags) {
    const char *text = getenv("FAKE_NVML_CARDS");
    (void)flags;
    count = 0;
    while (text && count < MOST_CARDS) {
        struct card *card = &cards[count];
        if (sscanf(text, "%95[^|]|%llu", card->name, &card->mib) == 2) card->number = count++;
        text = strchr(text, ';');
        if (text) text++;
    }
    return number_in("FAKE_NVML_INIT", OK);
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 6: return "Not Found";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *number) {
    *number = count;
    return fault("Count");
}

/* GPU-0000000k-..., as the test tells torch. */
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    unsigned number;
    if (sscanf(uuid, "GPU-%8x-", &number) != 1 || number >= count) return NOT_FOUND;
    *device = &cards[number];
    return fault("Handle");
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index >= count) return INVALID;
    *device = &cards[index];
    return fault("Handle");
}

int nvmlDeviceGetUUID(struct card *card, char *uuid, unsigned size) {
    char text[64];
    snprintf(text, sizeof text, "GPU-%08x-0000-0000-0000-000000000000", card->number);
    int code = fault("UUID");
    return code ? code : write_text(uuid, size, text);
}

int nvmlDeviceGetName(struct card *card, char *name, unsigned size) {
    int code = fault("Name");
    return code ? code : write_text(name, size, card->name);
}

int nvmlDeviceGetMemoryInfo(struct card *card, struct memory *memory) {
    memory->total = card->mib << 20;
    memory->used = 1ull << 30;
    memory->free = memory->total - memory->used;
    return fault("Memory");
}

int nvmlDeviceGetUtilizationRates(struct card *card, struct rates *rates) {
    rates->gpu = 57;
    rates->memory = 3 + card->number;
    return fault("Utilization");
}

int nvmlDeviceGetPowerUsage(struct card *card, unsigned *milliwatts) {
    (void)card;
    *milliwatts = 170500;
    return fault("Power");
}

int nvmlDeviceGetTemperature(struct card *card, int sensor, unsigned *celsius) {
    (void)card;
    *celsius = 61;
    return sensor ? INVALID : fault("Temperature");
}

int nvmlDeviceGetClockInfo(struct card *card, int kind, unsigned *mhz) {
    (void)card;
    *mhz = kind == 1 ? 1980 : 7501;
    return fault("Clock");
}
