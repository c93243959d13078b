package dev.pocketvlm

import dev.pocketvlm.PocketVlmException.NoMemory
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.nio.ByteBuffer

/** A model most of whose layers keep a state: conversations that go back, beside fresh ones; answers are `AnswerTest`'s. */
class StatesTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val case = lines("questions.jsonl").first { File(it.text("bundle")).name == "qwen3_5" }

    /** The same of float32, which a step of several tokens does not round otherwise than single ones. */
    private val bundle = folder("cases").resolve("states")
    private val config = GenerationConfig(maxNewTokens = 6, temperature = 3.0, seed = 5u)

    /** Nothing of such an answer is fed, so that the next question begins with all that was. */
    private val one = GenerationConfig(maxNewTokens = 1, temperature = 3.0, seed = 5u)
    private val long = "How many rows has the table of numbers, and what is the sum below? "

    /** The answer to the last of [messages], from the beginning. */
    private suspend fun fresh(model: PocketVlm, messages: List<Message>): List<Int> =
        model.chat(ChatConfig(history = messages.dropLast(1))).use { it.stream(messages.last(), config).whole().tokenIds }

    /** Answers of a conversation that goes on, is asked again and edited, and what [wanted] says of each. */
    private suspend fun conversation(model: PocketVlm, wanted: suspend (List<Message>) -> List<Int>): List<Pair<Any, Any>> {
        val found = ArrayList<Pair<Any, Any>>()
        model.chat().use { chat ->
            suspend fun said(answer: Answer) {
                found.add(answer.tokenIds to wanted(chat.messages.value.dropLast(1)))
            }
            chat.addImage(picture(case))
            for (question in listOf(long, "And the columns? ".repeat(3), "Why?")) said(chat.ask(question, config))
            said(chat.regenerate(config).whole())
            for ((index, text) in listOf(4 to "How?", 2 to long, 0 to "Where? ".repeat(5), 0 to long)) {
                said(chat.edit(index, text, config).whole())
            }
        }
        return found
    }

    @Test
    fun `a conversation answers as if it had begun there`(): Unit = withModel(bundle) { model ->
        for ((said, wanted) in conversation(model) { fresh(model, it) }) assertEquals(wanted, said)
    }

    @Test
    fun `a question that is asked again goes back to before it, and the oldest turns are dropped`(): Unit =
        withModel(bundle) { model ->
            val chat = model.chat(ChatConfig(dropOldest = true))
            chat.ask(long, one)
            val second = chat.ask("And the columns?", one)
            assertTrue(second.stats.reusedTokens > 0)
            val again = chat.regenerate(one).whole()
            assertEquals(second.tokenIds, again.tokenIds)
            assertEquals(second.stats.reusedTokens, again.stats.reusedTokens)
            repeat(6) { chat.ask("$it $long", config) }
            val last = chat.ask(long, config)
            assertTrue(chat.messages.value.size < 16)
            assertEquals(fresh(model, chat.messages.value.dropLast(1)), last.tokenIds)
        }

    @Test
    fun `what is saved goes back to the same copies`() {
        val (saved, copy) = listOf("saved", "copy").map { File(temporary.root, it) }
        val wanted = withModel(bundle) { model ->
            val chat = model.chat()
            chat.addImage(picture(case))
            chat.ask(long, config)
            chat.ask("And the columns?", config)
            chat.save(saved)
            listOf(chat.regenerate(config).whole(), chat.edit(0, "Where?", config).whole())
        }
        withModel(bundle) { model ->
            val chat = model.restore(saved)
            chat.save(copy)
            assertArrayEquals(saved.readBytes(), copy.readBytes())
            val found = listOf(chat.regenerate(config).whole(), chat.edit(0, "Where?", config).whole())
            assertEquals(wanted.map { it.tokenIds }, found.map { it.tokenIds })
            assertEquals(wanted.map { it.stats.reusedTokens }, found.map { it.stats.reusedTokens })
            assertTrue(found[0].stats.reusedTokens > 0)
        }
    }

    /** The buffers of a cache come first: of attention two, and the state's two; then those of its copies. */
    private class Counting(private val most: Int, private val instead: (ByteBuffer?) -> ByteBuffer?) : KvMemory {
        var live = 0
        private var given = 0
        private var last: ByteBuffer? = null

        override fun allocate(bytes: Int): KvBuffer {
            val isOther = given++ >= most
            val buffer = (if (isOther) instead(last) else null) ?: ByteBuffer.allocateDirect(bytes)
            last = buffer
            live++
            return KvBuffer(buffer) { live-- }
        }
    }

    @Test
    fun `there are four copies at most, and all memory is given back`() {
        val memory = Counting(0) { null }
        withModel(bundle, Options(threads = 1, kvMemory = memory)) { model ->
            val chat = model.chat()
            val live = List(7) {
                chat.ask("And $it?", one)
                memory.live
            }
            assertEquals(listOf(4, 5, 6, 7, 8, 8, 8), live)
            chat.close() // before the other's answer, on the same thread
            model.chat().ask("Why?", one)
            assertEquals(4, memory.live)
        }
    }

    @Test
    fun `a copy that there is no memory for ends the answer alone`() {
        var isFull = true
        val memory = Counting(4) { if (isFull) throw OutOfMemoryError() else null }
        withModel(bundle, Options(threads = 1, kvMemory = memory)) { model ->
            val chat = model.chat()
            chat.ask(long, one)
            assertRefused<NoMemory> { chat.ask("Why?", config) }
            assertEquals(2, chat.messages.value.size)
            isFull = false
            val said = chat.ask("Why?", config)
            assertEquals(fresh(model, chat.messages.value.dropLast(1)), said.tokenIds)
        }
    }

    @Test
    fun `copies that are one memory are seen in the answers`() {
        val found = listOf<KvMemory>(KvMemory.Direct, Counting(5) { it }).map { memory ->
            withModel(bundle, Options(threads = 1, kvMemory = memory)) { model ->
                val chat = model.chat()
                for (question in listOf(long, "And the columns?", "Why?")) chat.ask(question, one)
                chat.edit(2, "How?", config).whole().also { assertTrue(it.stats.reusedTokens > 0) }.tokenIds
            }
        }
        assertNotEquals(found[0], found[1])
    }
}
