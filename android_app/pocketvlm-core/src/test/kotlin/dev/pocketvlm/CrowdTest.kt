package dev.pocketvlm

import dev.pocketvlm.PocketVlmException.Closed
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.util.Random
import java.util.concurrent.CountDownLatch
import java.util.concurrent.atomic.AtomicInteger

/** Many callers, and ends at any time. `-Dturns=`, `-Dends=` ask for more than CI does. */
class CrowdTest {
    private val questions = lines("questions.jsonl").filter { it.double("temperature") == 0.0 }
    private val bundle = File(questions[0].text("bundle"))
    private val cases = questions.filter { it.text("bundle") == questions[0].text("bundle") }

    @Test
    fun `ten coroutines get their own answers`(): Unit = withModel(bundle) { model ->
        coroutineScope {
            (0 until 10).map { index ->
                async(Dispatchers.Default) {
                    val case = cases[index % cases.size]
                    val answer = if (index % 2 == 0) {
                        model.ask(case.text("question"), listOf(picture(case)), configOf(case))
                    } else {
                        model.chat().use { chat ->
                            chat.addImage(picture(case))
                            chat.ask(case.text("question"), configOf(case))
                        }
                    }
                    assertEquals(case.ints("ids"), answer.tokenIds)
                }
            }.awaitAll()
        }
    }

    @Test
    fun `many turns take no more memory than a few`(): Unit = withModel(bundle) { model ->
        val chat = model.chat(ChatConfig(dropOldest = true))
        val turns = Integer.getInteger("turns", 60)
        val config = GenerationConfig(maxNewTokens = 4)
        var middle = 0L
        for (turn in 0 until turns) {
            if (turn % 7 == 0) chat.addImage(picture(cases[turn / 7 % cases.size]))
            chat.ask("What about $turn?", config)
            if (turn == turns / 2) middle = resident()
        }
        val growth = resident() - middle
        System.getProperty("report")?.let { File(it).appendText("{\"turns\": $turns, \"growth_bytes\": $growth}\n") }
        assertTrue("$growth bytes in ${turns / 2} turns", growth < 64L shl 20)
        assertTrue(chat.budget.used <= chat.budget.capacity)
    }

    @Test
    fun `answers are cancelled and models closed at random times, and nobody waits`() {
        val random = Random(5)
        val ends = Integer.getInteger("ends", 60)
        val outcomes = AtomicInteger()
        var left = ends
        while (left > 0) withModel(bundle) { model ->
            coroutineScope {
                val chat = model.chat()
                repeat(minOf(left, 20)) {
                    left--
                    val case = cases[random.nextInt(cases.size)]
                    chat.attachments.value.forEach { it.remove() } // of a question that ended before it was one
                    chat.rewind(chat.messages.value.size)
                    val answer = launch(Dispatchers.Default) {
                        chat.addImage(picture(case))
                        chat.ask(case.text("question"), configOf(case))
                    }
                    answer.invokeOnCompletion { outcomes.incrementAndGet() } // also of one that was cancelled before it began
                    delay(random.nextInt(60).toLong())
                    if (random.nextBoolean()) answer.cancel(CancellationException("random")) else chat.cancel()
                    answer.join()
                }
                val last = launch(Dispatchers.Default) {
                    try {
                        chat.ask("What is it?", GenerationConfig(maxNewTokens = 500))
                    } catch (closed: Closed) {
                        outcomes.incrementAndGet()
                    }
                }
                delay(random.nextInt(30).toLong())
                model.close()
                last.join()
            }
        }
        assertTrue(outcomes.get() >= ends)
    }

    @Test
    fun `closing does not wait for an answer whose collector stands still`(): Unit = withModel(bundle) { model ->
        val reached = CountDownLatch(1)
        val closed = CountDownLatch(1)
        val thread = Thread {
            reached.await()
            model.close()
            closed.countDown()
        }
        thread.start()
        assertRefused<Closed> {
            model.chat().stream("What is it?", GenerationConfig(maxNewTokens = 500)).collect {
                reached.countDown()
                closed.await() // for ever, if close() waited for this
            }
        }
    }

    private fun resident(): Long {
        System.gc()
        val line = File("/proc/self/status").readLines().first { it.startsWith("VmRSS:") }
        return line.split(Regex("\\s+"))[1].toLong() * 1024
    }
}
