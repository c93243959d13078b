package dev.pocketvlm.sample

import android.view.View
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.Toolbar
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner

/** How each screen looks, in each dress; that each can be used by finger and by ear; that nothing is under the bars. */
@RunWith(RobolectricTestRunner::class)
class ScreensTest {
    private val phone = Phone()

    @Test
    fun `screens of a conversation`() {
        push()
        phone.start().waitForModel()
        phone.check("empty")
        phone.choosePicture()
        waitForEncoding()
        phone.view<EditText>(R.id.question).setTextAt(QUESTION)
        phone.showBars(keyboard = 260)
        phone.check("question")
        phone.showBars()
        phone.view<View>(R.id.attachment_picture).performClick()
        phone.check("tiles")
        @Suppress("DEPRECATION")
        phone.activity.onBackPressed()

        phone.askUntilStreaming()
        phone.lastAnswer().text = ANSWER.take(2) // how far it is differs from run to run
        phone.check("streaming", isStill = false)
        assertEquals(phone.activity.getString(R.string.stop), phone.view<View>(R.id.ask).contentDescription)
        phone.waitForAnswer()
        phone.check("answer")
        for ((name, qualifiers, scale) in DRESSES) {
            phone.change(qualifiers, scale)
            phone.check("answer-$name")
        }
        phone.change("en-rUS-ldltr-w360dp-h640dp-port-notnight-xhdpi")
        phone.menu(R.id.statistics)
        phone.check("statistics")
    }

    private fun waitForEncoding() = waitFor("the picture is encoded") {
        phone.conversation.pending.value.all { it.attachment.state.value is dev.pocketvlm.Encoding.Ready }
    }

    @Test
    fun `each check sees its fault`() {
        push()
        phone.start().waitForModel()
        phone.showBars()
        val decor = phone.activity.window.decorView
        val right = draw(phone.activity)
        assertTrue(isAsKept(right, draw(phone.activity)))
        assertEquals(emptyList<String>(), faultsForFingersAndEars(decor) + faultsUnderBars(phone.activity, phone.bars))

        val toolbar = phone.view<Toolbar>(R.id.toolbar)
        toolbar.translationY = 4f
        assertFalse("a bar that is two dp lower", isAsKept(right, draw(phone.activity)))
        toolbar.translationY = 0f

        val root = phone.view<View>(R.id.root)
        root.setPadding(0, 0, 0, 0) // as if nobody had asked for insets
        phone.layOut()
        val covered = faultsUnderBars(phone.activity, phone.bars)
        assertTrue("$covered", covered.any { "new_chat" in it } && covered.any { "ask" in it })
        phone.showBars()

        val speak = phone.view<View>(R.id.speak)
        val label = speak.contentDescription
        speak.contentDescription = null
        assertEquals(listOf("speak says nothing"), faultsForFingersAndEars(decor))
        speak.contentDescription = label
        speak.layoutParams = LinearLayout.LayoutParams(60, 60)
        phone.layOut()
        assertEquals(listOf("speak is 60 x 60, a finger needs 96"), faultsForFingersAndEars(decor))
    }

    private companion object {
        /** Beside upright and light. The pseudo language is right to left and marks what comes from resources. */
        val DRESSES = listOf(
            Triple("dark", "+port-night", 1f),
            Triple("landscape", "+land-notnight", 1f),
            Triple("large", "+port", 1.5f),
            Triple("right-to-left", "ar-rXB-ldrtl-w360dp-h640dp-port-notnight-xhdpi", 1f),
        )
    }
}
