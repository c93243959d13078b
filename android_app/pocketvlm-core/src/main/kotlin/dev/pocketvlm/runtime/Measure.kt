package dev.pocketvlm.runtime

import dev.pocketvlm.Benchmark
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive

/** Rates of prefill and decode, by tokens that mean nothing: what they are changes no cost. */
internal suspend fun measure(model: LoadedModel, session: Session, prompt: Int, tokens: Int, repeats: Int): Benchmark =
    model.withEngine { engine, interrupt ->
        val prefill = ArrayList<Double>()
        val decode = ArrayList<Double>()
        val chunk = model.manifest.prefillChunk
        val vocabulary = Math.toIntExact(model.manifest.model.vocabSize)
        val ids = IntArray(prompt) { it % vocabulary }
        repeat(repeats + 1) { turn ->
            currentCoroutineContext().ensureActive()
            session.keys.clear()
            val cache = session.cache().also { it.rewind(0) }
            val start = now()
            var logits = FloatArray(0)
            for (first in 0 until prompt step chunk) {
                logits = engine.step(ids.copyOfRange(first, minOf(first + chunk, prompt)), cache, interrupt)
            }
            val prefilled = secondsSince(start)
            val middle = now()
            repeat(tokens) { logits = engine.step(intArrayOf(argmax(logits)), cache, interrupt) }
            val decoded = secondsSince(middle)
            cache.rewind(0)
            if (turn == 0) return@repeat // caches are cold
            prefill.add(prompt / prefilled)
            decode.add(tokens / decoded)
        }
        Benchmark(prefill, decode)
    }
